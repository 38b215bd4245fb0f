"""The package's parts, imported when they are used."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pytest

import jaxrobust

ROOT = Path(__file__).parents[1]

CODE = """
import sys
import jaxrobust
assert "jax" not in sys.modules
print(len([name for name in dir(jaxrobust) if hasattr(getattr(jaxrobust, name), "__path__")]))
assert jaxrobust.attacks.pgd and jaxrobust.losses.margin
"""


def test_parts_are_imported_when_they_are_used() -> None:
    # A process of its own: here everything is imported already.
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 9


def test_what_is_no_part_is_named() -> None:
    with pytest.raises(AttributeError, match=r"no part 'atacks'; it has: attacks, data"):
        jaxrobust.atacks  # noqa: B018


def requirements(lines: Iterable[str]) -> dict[str, str]:
    """The range of versions by package."""
    found = (re.match(r"([\w-]+)(?:\[\w+\])?([<>=!~].*)?$", line) for line in lines)
    return {match[1]: match[2] or "" for match in found if match and match[1] != "jaxrobust"}


def test_requirements_are_the_package_with_its_extras() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = requirements(project["dependencies"])
    for extra in ("data", "experiments", "test"):
        wanted |= requirements(extras[extra])
    assert requirements((ROOT / "requirements.txt").read_text().splitlines()) == wanted


def test_the_package_needs_no_extra_to_be_imported() -> None:
    # A process of its own, in which they cannot be found.
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [name for names in project["optional-dependencies"].values() for name in names]
    modules = {"sklearn", *(name.replace("-", "_") for name in requirements(extras))}
    code = f"""
import sys
sys.modules.update(dict.fromkeys({sorted(modules)!r}))
import jaxrobust
for name in dir(jaxrobust):
    if name != "figures":
        getattr(jaxrobust, name)
assert jaxrobust.attacks.pgd
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
