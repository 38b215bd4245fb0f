"""The table of mistakes shows the messages that users get."""

import importlib.util
import os
import re
from pathlib import Path

import mistakes
import pytest

from jaxrobust.threats import covering


def rows(text: str) -> dict[str, str]:
    """The cells of the tables' rows, by the mistake."""
    return {line.split(" | ")[0]: line for line in text.splitlines() if line.startswith("| ")}


def forgiving(line: str) -> str:
    """Without what differs between machines and versions: numbers of devices, words of Python."""
    return re.sub(r"\d+ devices", "devices", line.replace("pgd() got", "got"))


@pytest.mark.slow  # 20 to 40 seconds
@pytest.mark.usefixtures("default_promotion")
def test_every_mistake_gets_the_message_that_the_page_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    # A warning that is said once in a process is said anew.
    monkeypatch.setattr(covering, "_TOLD", [])
    shown = rows(mistakes.PAGE.read_text())
    found = rows(mistakes.page())
    assert list(found) == list(shown)
    assert len(found) >= 40
    torch = importlib.util.find_spec("torch") is not None
    for mistake, line in found.items():
        if torch or "import torch" not in line:
            assert forgiving(line) == forgiving(shown[mistake])


def test_the_page_is_that_of_the_program() -> None:
    text = mistakes.PAGE.read_text()
    assert mistakes.SETUP.strip() in text
    written = [mistake for part in mistakes.MISTAKES.values() for mistake, _ in part]
    assert len(set(written)) == len(written) >= 40
    # Below the heading of each table, whose rows begin with another word.
    assert [name[2:] for name in rows(text) if name != "| mistake"] == written


def test_silence_is_no_message() -> None:
    with pytest.raises(AssertionError, match="nothing is said"):
        mistakes.told("1 + 1", {})
    assert mistakes.told("1 / 0", {}) == "ZeroDivisionError: division by zero"
    assert len(mistakes.in_a_cell("word " * 500)) <= mistakes.LONGEST
    assert os.linesep not in mistakes.in_a_cell("a\nb")
