"""The page of every table and figure: none is missing, and what it starts exists."""

import dataclasses
import importlib
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tyro

PAGE = (Path(__file__).parents[1] / "docs" / "coverage.md").read_text()


def up_to(chapter: int, count: int) -> list[str]:
    return [f"{chapter}.{n}" for n in range(1, count + 1)]


NUMBERED = {
    "DALE": (["1", "2"], ["1", "2"]),
    "TRADES": (list(map(str, range(1, 11))), list(map(str, range(1, 9)))),
    "FOSC and dynamic training": (["1", "2", "3"], list(map(str, range(1, 6)))),
    "BETA": (["1", "2"], ["1"]),
    "Wong's thesis, chapter 3": (up_to(3, 7), up_to(3, 21)),
    "Wong's thesis, chapter 4": (up_to(4, 13), up_to(4, 32)),
    "Wong's thesis, chapter 5": (up_to(5, 5), up_to(5, 14)),
}
"""Tables and figures of each text."""


def rows(section: str) -> Iterator[list[str]]:
    """The cells of a section's table."""
    text = PAGE.split(f"## {section}\n")[1].split("\n## ")[0]
    for line in text.splitlines():
        if line.startswith("| ") and not line.startswith("| |"):
            yield [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.parametrize("section", NUMBERED)
def test_every_number_has_its_row(section: str) -> None:
    found: dict[str, list[str]] = {"Table": [], "Figure": []}
    for name, *_ in rows(section):
        match = re.fullmatch(r"(Table|Figure)s? ([\d., ]+)", name)
        if match:
            found[match[1]] += match[2].split(", ")
    tables, figures = NUMBERED[section]
    assert sorted(found["Table"]) == sorted(tables)
    assert sorted(found["Figure"]) == sorted(figures)


def test_a_row_says_what_makes_it_or_that_nothing_does() -> None:
    for section in NUMBERED:
        for cells in rows(section):
            name, what, command, run, outcome = cells
            assert what, name
            assert command.startswith(("`python -m", "open", "drawing")), name
            if command.startswith("`"):
                assert run, name
                # a row that was run says what came of it
                assert outcome or run.startswith("not run"), name


def _trades(config: object) -> object:
    return importlib.import_module("experiments.trades.tables").jobs(config)


def _settings(module: str, name: str) -> Callable[[object], object]:
    return getattr(importlib.import_module(f"experiments.{module}"), name)


def _recipe(module: str, name: str) -> Callable[[object], object]:
    recipes = getattr(importlib.import_module(f"experiments.{module}"), name)
    return lambda config: config.options.recipe(recipes)  # type: ignore[attr-defined]


CHECKS: dict[str, Callable[[], Callable[[object], object]]] = {
    "beta": lambda: _recipe("beta.config", "BETA"),
    "dale": lambda: _settings("dale.config", "settings_of"),
    "fast": lambda: _settings("fast.config", "setting"),
    "fosc": lambda: _settings("fosc.config", "checked"),
    "imagenet": lambda: _settings("imagenet.config", "setting_of"),
    "overfitting": lambda: _recipe("common.long_runs", "RECIPES"),
    "provable": lambda: _settings("provable.config", "setting"),
    "theory": lambda: _settings("theory.config", "check"),
    "trades": lambda: _trades,
    "union": lambda: _settings("union.config", "setting"),
    "wasserstein": lambda: _settings("wasserstein.config", "setting"),
}
"""What checks a study's options, its preset among them, before anything is loaded."""


COMMANDS = sorted(set(re.findall(r"`python -m (experiments\.[^`]+)`", PAGE)))


def test_there_are_commands() -> None:
    assert len(COMMANDS) > 50


@pytest.mark.parametrize("command", COMMANDS)
def test_the_preset_of_a_command_exists(command: str) -> None:
    module, *arguments = shlex.split(command)
    study = module.removeprefix("experiments.")
    config = importlib.import_module(f"{module}.config").Config
    options, unknown = tyro.cli(config, args=arguments, return_unknown_args=True)
    assert not unknown
    assert dataclasses.is_dataclass(options)
    if study in CHECKS:
        CHECKS[study]()(options)
    else:
        assert study == "evaluate"  # it has no presets
