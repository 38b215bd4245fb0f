"""Answers of exact methods about single images; they are kept, as each may take a minute."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from jaxrobust.files import write_text_atomic


class Verdict(NamedTuple):
    """What an exact method said of an image."""

    status: str
    """See `duals.exact.Exact.status`."""
    seconds: float


def kept(
    file: Path, rows: Sequence[int], answer: Callable[[list[int]], Iterable[Verdict]]
) -> dict[int, Verdict]:
    """The verdicts on `rows`; those that `file` does not hold are asked of `answer`, in order.

    They are saved in `file` as they come.
    """
    held = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    missing = [i for i in rows if str(i) not in held]
    if missing:
        for index, verdict in zip(missing, answer(missing), strict=True):
            held[str(index)] = verdict._asdict()
            write_text_atomic(file, json.dumps(held) + "\n")
    return {i: Verdict(**held[str(i)]) for i in rows}
