"""The shape of experiments/: one package a study, and no study that leans on another."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import experiments

ROOT = Path(experiments.__file__).parent
STUDIES = sorted(p.name for p in ROOT.iterdir() if (p / "__main__.py").is_file())


def imported(package: str, source: str) -> Iterator[str]:
    """The modules that a source file of `package` imports, names in them included."""
    above = {0: "", 1: f"experiments.{package}.", 2: "experiments."}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = f"{node.module}." if node.module else ""
            yield from (f"{above[node.level]}{module}{alias.name}" for alias in node.names)


def strays(package: str, source: str) -> list[str]:
    """Imports of a file of `package` from studies that are not its own."""
    parts = (name.split(".") for name in imported(package, source))
    own = {"common", package}
    return [".".join(p) for p in parts if p[0] == "experiments" and len(p) > 1 and p[1] not in own]


def test_there_are_studies() -> None:
    assert {"dale", "trades", "fosc", "beta", "fast", "union", "provable"} <= set(STUDIES)


@pytest.mark.parametrize("package", [*STUDIES, "common"])
def test_no_study_imports_another(package: str) -> None:
    for file in (ROOT / package).rglob("*.py"):
        assert not strays(package, file.read_text()), file.name


def test_a_planted_import_is_found() -> None:
    assert strays("dale", "from experiments.beta.config import Config") == [
        "experiments.beta.config.Config"
    ]
    assert strays("dale", "from experiments import beta") == ["experiments.beta"]
    assert strays("dale", "from .. import beta") == ["experiments.beta"]
    assert strays("dale", "from ..beta import config") == ["experiments.beta.config"]
    assert not strays("dale", "from . import plots\nfrom .config import Config")
    assert not strays("dale", "from experiments.common import cli\nimport experiments.dale.plots")
