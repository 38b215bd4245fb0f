"""What every study's command line says."""

import dataclasses
import sys

import pytest

from experiments.common.cli import command_line


@dataclasses.dataclass(frozen=True)
class Config:
    steps: int = 3
    """Steps of PGD."""


def test_help_names_the_command_and_no_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "__package__", "experiments.dale")
    monkeypatch.setattr(sys, "argv", ["/some/folder/__main__.py", "--help"])
    with pytest.raises(SystemExit, match="0"):
        command_line(lambda config: None, Config, "A study.")
    told = capsys.readouterr().out
    assert told.startswith("usage: python -m experiments.dale ")
    assert "/some/folder" not in told
    assert "Steps of PGD." in told
