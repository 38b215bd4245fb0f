"""No import runs upward: each part of the package imports from the layers below it only."""

import ast
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = (
    {"devices", "pytree"},
    {"types"},
    {"checks", "files", "float_bisection", "fingerprint", "hoisting", "processes", "signals"},
    {"archive", "contents", "lagrangian", "locks", "losses"},
    {"sinkhorn"},
    {"threats"},
    {"data", "models"},
    {"attacks"},
    {"export"},
    {"duals"},
    {"defenses"},
    {"training"},
    {"evaluation"},
    {"figures"},
    {"experiments"},
)
"""From the bottom. Parts of one layer do not import each other."""
HEIGHT = {part: height for height, layer in enumerate(LAYERS) for part in layer}


@dataclasses.dataclass(frozen=True)
class Import:
    """That `path`, in the part `importer`, imports from the part `imported`."""

    path: str
    importer: str
    imported: str

    @property
    def runs_upward(self) -> bool:
        below = HEIGHT[self.imported] < HEIGHT[self.importer]
        return self.imported != self.importer and not below


def part(module: str) -> str | None:
    """The part a dotted name lies in: `jaxrobust.duals.bounds` in `duals`; None: not ours."""
    head, *rest = module.split(".")
    if head == "experiments":
        return "experiments"
    return rest[0] if head == "jaxrobust" and rest else None


def imported_names(tree: ast.AST, package: list[str]) -> Iterator[str]:
    """Every module that a parsed file imports, inside of functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            # `from jaxrobust import checks` names the part after the import
            yield from (f"{base}.{alias.name}" for alias in node.names)


def imports(root: Path) -> list[Import]:
    """The imports of all files of the package and the experiments below `root`."""
    found = []
    for path in sorted([*root.glob("jaxrobust/**/*.py"), *root.glob("experiments/**/*.py")]):
        name = path.relative_to(root)
        importer = part(".".join(name.with_suffix("").parts))
        for module in imported_names(ast.parse(path.read_text("utf-8")), list(name.parent.parts)):
            imported = part(module)
            if imported is not None and importer != "__init__":
                found.append(Import(str(name), importer, imported))
    return found


def test_every_part_has_its_layer():
    parts = [p for p in (ROOT / "jaxrobust").iterdir() if not p.name.startswith("__")]
    there = {p.stem for p in parts if p.suffix == ".py" or p.is_dir()}
    assert there | {"experiments"} == set(HEIGHT)


def test_no_import_runs_upward():
    found = imports(ROOT)
    assert len(found) > 500  # the walk sees the package
    assert [i for i in found if i.runs_upward] == []


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("sinkhorn/linear.py", "from jaxrobust.threats.l1 import L1"),
        ("duals/exact.py", "import jaxrobust.evaluation.report"),
        ("checks.py", "from jaxrobust import files"),
        ("threats/box.py", "def f():\n    from ..attacks import pgd"),
        ("figures/lines.py", "from experiments import study"),
    ],
)
def test_a_planted_upward_import_is_seen(tmp_path, file, line):
    planted = tmp_path / "jaxrobust" / file
    planted.parent.mkdir(parents=True)
    planted.write_text(line + "\n", "utf-8")
    assert [i.path for i in imports(tmp_path) if i.runs_upward] == [f"jaxrobust/{file}"]
