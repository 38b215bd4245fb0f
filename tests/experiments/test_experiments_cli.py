"""What every study's command line says."""

import dataclasses
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import experiments.__main__ as commands
import jaxrobust.__main__ as console
from experiments.common import cli
from experiments.common.cli import command_line

EXPERIMENTS = Path(commands.__file__).parent


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


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--step", "3"], "no option --step; did you mean --steps?"),
        (["--stesp=3"], "no option --stesp; did you mean --steps?"),
        (["--quux", "3"], "no option --quux. --help lists them all"),
        (["3"], "'3' belongs to no option"),
    ],
)
def test_unknown_options_are_one_line_with_the_nearest(
    given: list[str],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.setattr(sys, "argv", ["study", *given])
    with pytest.raises(SystemExit, match="2"):
        command_line(lambda config: pytest.fail("it ran"), Config, "A study.")
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_examples_keep_their_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys, "argv", ["evaluate", "--help"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_module("experiments.evaluate", run_name="__main__")
    told = capsys.readouterr().out
    assert "--pretrained-dir weights \\\n        --dataset mnist" in told


@pytest.mark.parametrize("kept", [True, False])
def test_programs_are_kept_but_where_compiling_is_timed(
    kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = []
    monkeypatch.setattr(cli, "keep_programs", lambda: order.append("kept"))
    monkeypatch.setattr(sys, "argv", ["study"])
    command_line(lambda config: order.append("ran"), Config, "A study.", kept=kept)
    assert order == (["kept", "ran"] if kept else ["ran"])


def test_every_command_is_listed_with_what_it_does(capsys: pytest.CaptureFixture) -> None:
    commands.main([])
    told = capsys.readouterr().out
    folders = {file.parent.name for file in EXPERIMENTS.glob("*/__main__.py")}
    assert folders == commands.commands().keys()
    for name, about in commands.commands().items():
        assert about.endswith(".")
        assert f"  {name} " in told
        assert about in told


def test_a_command_gets_the_rest_of_the_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    before = list(sys.argv)
    monkeypatch.setattr(sys.modules["__main__"], "__package__", "experiments")
    with pytest.raises(SystemExit, match="2"):
        commands.main(["summary", "--runs", str(tmp_path / "none")])
    assert "none is no folder" in capsys.readouterr().err
    assert sys.argv == before


def test_an_unknown_command_names_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match="unknown command 'evaluat'; did you mean 'evaluate'"):
        commands.main(["evaluat"])
    monkeypatch.setattr(sys, "argv", ["jaxrobust", "dael"])
    with pytest.raises(SystemExit, match="unknown command 'dael'"):
        console.main()


@pytest.mark.parametrize(("package", "command"), [("tyro", "dale"), ("matplotlib", "trades")])
def test_a_missing_package_is_one_line_with_the_mend(package: str, command: str) -> None:
    hidden = (
        f"import sys; sys.modules[{package!r}] = None; import jaxrobust.__main__ as m; m.main()"
    )
    line = [sys.executable, "-c", hidden, command]
    ended = subprocess.run(
        line, capture_output=True, text=True, cwd=EXPERIMENTS.parent, check=False
    )
    assert ended.returncode == 2
    mend = 'pip install "jaxrobust[experiments]"'
    assert ended.stderr == f"error: the commands need the package {package}: {mend}\n"
