"""The documentation's code runs as it stands."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from training.training_cases import assert_close

from jaxrobust import attacks
from jaxrobust.defenses.ramp import grown
from jaxrobust.types import Attack

DOCS = Path(__file__).parents[1] / "docs"


def run(page: str) -> dict:
    """The names that a page's blocks of Python define, run in order."""
    blocks = re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(), re.M | re.S)
    names: dict = {"__name__": "page"}
    for block in blocks:
        exec(compile(block, page, "exec", dont_inherit=True), names)
    return names


def test_attacks_of_ones_own() -> None:
    names = run("extending.md")
    x, y = jnp.array([0.52, 0.5]), jnp.int32(0)
    attack = names["attack"]
    assert isinstance(attack, Attack)
    found = attack(jax.random.key(0), lambda z: z, x, y)
    assert bool(found.inside)
    assert int(found.forwards) == 20 + 2  # those of the verdict, clean example included
    assert bool(attacks.restarts(attack, 3)(jax.random.key(0), lambda z: z, x, y).success)
    # A share is no length: the ramp grows the radius alone.
    half = grown(attack, 0.25, 0.5)
    assert float(half.threat.radius) == pytest.approx(0.05)
    assert half.share == 1.0


@pytest.mark.usefixtures("default_promotion")
def test_training_on_ones_own_terms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    names = run("training.md")
    for name in ("again", "from_file"):
        assert_close(names[name].state, names["tuned"].state)
    assert capsys.readouterr().out.split()[::2] == ["1", "2"]
    assert [int(names[run].state.step) for run in ("first", "streamed", "small")] == [4, 4, 8]
