"""The examples of docstrings run, and print what they say."""

import doctest
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "jaxrobust"


def examples() -> Iterator[doctest.DocTest]:
    finder = doctest.DocTestFinder()
    for path in sorted(PACKAGE.rglob("*.py")):
        if ">>> " in path.read_text():
            parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
            name = ".".join(part for part in parts if part != "__init__")
            yield from (t for t in finder.find(importlib.import_module(name)) if t.examples)


EXAMPLES = {test.name: test for test in examples()}


def test_the_most_used_functions_have_one() -> None:
    assert len(EXAMPLES) >= 20


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_prints_what_it_says(name: str) -> None:
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    told: list[str] = []
    runner.run(EXAMPLES[name], out=told.append)
    assert not runner.failures, "".join(told)
