"""The package's parts, imported when they are used."""

import subprocess
import sys

import pytest

import jaxrobust

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
