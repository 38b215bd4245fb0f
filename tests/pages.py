"""The code of a page, run in order, and the output that the page shows for it.

A block of `text` right below a block of `python` is what that block prints. Run as a program on a
page, this file writes those blocks anew: what a page shows is always the output of a run.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
FENCE = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.M | re.S)
NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?|\b(?:nan|inf)\b")
VARIES = "vary"
"""In a block's title: its numbers are those of one run."""


class Block(NamedTuple):
    """A fenced block of a page."""

    language: str
    about: str
    """What follows the language."""
    body: str
    start: int
    end: int


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    return [Block(m[1], m[2].strip(), m[3], m.start(), m.end()) for m in FENCE.finditer(text)]


class Played(NamedTuple):
    """A block of Python that ran."""

    code: Block
    printed: str
    shown: Block | None
    """The output in the page; None where there is none."""


def play(page: Path, names: dict | None = None) -> Iterator[Played]:
    """Runs a page's blocks of Python, one after the other, in `names`."""
    names = {"__name__": "page"} if names is None else names
    text = page.read_text()
    found = blocks(text)
    for block, after in zip(found, [*found[1:], None], strict=True):
        if block.language != "python":
            continue
        below = after is not None and after.language == "text"
        shown = after if below and not text[block.end : after.start].strip() else None
        # Errors name the line of the page.
        code = "\n" * text[: block.start].count("\n") + "\n" + block.body
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(code, str(page), "exec", dont_inherit=True), names)
        yield Played(block, clean(out.getvalue()), shown)


def clean(printed: str) -> str:
    """Output without blanks at the ends of lines, and without blank lines around it."""
    return "\n".join(line.rstrip() for line in printed.splitlines()).strip("\n")


def difference(played: Played, *, relative: float = 0.25, absolute: float = 0.06) -> str | None:
    """What the page says otherwise than the run: words, or numbers further off than rounding.

    Training and attacks amplify the last bit of a sum, which differs between processors.
    """
    said = clean(played.shown.body) if played.shown else ""
    loose = played.shown is not None and VARIES in played.shown.about
    mark = "" if loose else "#"
    words = [" ".join(NUMBER.sub(mark, text).split()) for text in (said, played.printed)]
    # The rules of tables are as long as their widest number.
    words = [re.sub(r"[-─━]{2,}", "--", text) for text in words]
    if words[0] != words[1]:
        return f"the page shows\n{said}\nand the run printed\n{played.printed}"
    if loose:
        return None
    numbers = (NUMBER.findall(text) for text in (said, played.printed))
    for told, found in zip(*numbers, strict=True):
        a, b = float(told), float(found)
        if a != b and not abs(a - b) <= absolute + relative * abs(a):
            return f"{told} in the page, {found} in the run:\n{played.printed}"
    return None


def rewrite(page: Path) -> None:
    """Runs a page and sets what its blocks print below them."""
    os.chdir(tempfile.mkdtemp())  # no run is taken up from before
    text, done = page.read_text(), list(play(page))
    for played in reversed(done):
        if played.shown is None and not played.printed:
            continue
        about = f" {played.shown.about}" if played.shown and played.shown.about else ""
        gap = "\n\n" if played.shown is None else text[played.code.end : played.shown.start]
        end = played.shown.end if played.shown else played.code.end
        below = f"{gap}```text{about}\n{played.printed}\n```"
        text = text[: played.code.end] + below + text[end:]
    page.write_text(text)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    for name in map(os.path.abspath, sys.argv[1:]):
        rewrite(Path(name))
