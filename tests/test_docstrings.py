"""Docstrings of public functions tell their arguments one a line, and no argument they have not."""

import ast
import contextlib
import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import flax.linen as nn
import optax
import pytest

import jaxrobust
from jaxrobust.defenses import Defense
from jaxrobust.lagrangian import Multiplier
from jaxrobust.types import Attack, Model

PACKAGES = (
    *("attacks", "data", "defenses", "duals", "evaluation", "export", "figures", "lagrangian"),
    *("losses", "models", "sinkhorn", "threats", "training"),
)


def public(package: str) -> Iterator[Callable]:
    module = importlib.import_module(f"jaxrobust.{package}")
    for name in getattr(module, "__all__", vars(module)):
        value = getattr(module, name)
        ours = getattr(value, "__module__", "").startswith(module.__name__)
        if inspect.isfunction(value) and ours and not name.startswith("_"):
            yield value


FUNCTIONS = {f"{p}.{f.__name__}": f for p in PACKAGES for f in public(p)}


PACKAGE = Path(jaxrobust.__file__).parent
SOURCES = sorted(PACKAGE.glob("**/*.py"))

MADE = (Attack, Defense, Model, Multiplier, nn.Module, optax.GradientTransformation)
"""What functions make of their arguments, told by their first sentence."""


def tells_its_result(function: Callable) -> bool:
    """Whether it is for the docstring to say what comes back."""
    made = inspect.signature(function, eval_str=False).return_annotation
    # Annotations are text; those that only type checkers import name none of `MADE`.
    with contextlib.suppress(NameError):
        made = eval(made, function.__globals__) if isinstance(made, str) else made
    return made is not None and not (inspect.isclass(made) and issubclass(made, MADE))


def section(function: Callable, title: str) -> str:
    """The lines under a title, to the next one."""
    doc = inspect.getdoc(function) or ""
    found = re.search(rf"^{title}:\n(.*?)(?=^\S|\Z)", doc, re.M | re.S)
    return found[1] if found else ""


TAG = re.compile(r"<(/?[a-zA-Z][^<>@ ]*( [^<>]*)?|!--.*?--)>", re.S)
ITALICS = re.compile(
    r"(?<!\*)\*(?![\s*])[^*]*?(?<![\s*])\*(?!\*)|(?<!\w)_(?![\s_])[^_]*?(?<![\s_])_(?!\w)"
)


def prose(docstring: str) -> Iterator[str]:
    """The paragraphs that Markdown reads, without `code`."""
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(docstring)):
        formula = all(line.startswith("    ") for line in paragraph.splitlines())
        if not formula and not paragraph.startswith("Example:"):
            yield re.sub(r"`[^`]*`", "", paragraph)


def test_prose_tells_formulas_from_tags_and_italics() -> None:
    assert TAG.search("that maximizes <gradient, z>")
    assert not TAG.search("z <- z + 1 where a < b and c > d")
    assert ITALICS.search("x *and* y")
    assert ITALICS.search("as _run_ does")
    assert not ITALICS.search("2 * x * y_1 + z_2, **bold**")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_markdown_takes_no_formula_for_a_tag_or_italics(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    texts = [
        node.value.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
        # What a module is about is not on the site; what a package is, is.
        and (node is not tree.body[0] or path.name == "__init__.py")
    ]
    for paragraph in (part for text in texts for part in prose(text)):
        assert not TAG.search(paragraph), paragraph
        assert not ITALICS.search(paragraph), paragraph


def test_there_is_something_to_look_at() -> None:
    assert len(FUNCTIONS) > 180


@pytest.mark.parametrize("name", FUNCTIONS)
def test_arguments_are_told_one_a_line(name: str) -> None:
    parameters = set(inspect.signature(FUNCTIONS[name]).parameters)
    told = set()
    for line in section(FUNCTIONS[name], "Args").splitlines():
        started = re.match(r"  (\*?\w+(?:, \*?\w+)*): ", line)
        if started:
            told |= {part.strip("*") for part in started[1].split(", ")}
        later = re.findall(r"[.;] (\w+): ", line)
        assert not parameters & set(later), f"{line.strip()}: a line of its own for {later}"
    assert told <= parameters, f"of no argument: {told - parameters}"


@pytest.mark.parametrize("name", [n for n, f in FUNCTIONS.items() if tells_its_result(f)])
def test_results_are_told(name: str) -> None:
    assert section(FUNCTIONS[name], "Returns") or section(FUNCTIONS[name], "Yields")
