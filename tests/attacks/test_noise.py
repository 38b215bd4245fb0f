"""Noise attacks: the law of their draws, the order of their amplitudes, their cost."""

from __future__ import annotations

from typing import Any

import attack_cases as cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.attacks import noise
from jaxrobust.attacks.noise import gaussian_noise, salt_and_pepper, uniform_noise
from jaxrobust.threats import L1, L2, Linf, Wasserstein
from jaxrobust.types import Attack, AttackResult

KEY = jax.random.key(1)
NOISES = {"gaussian": gaussian_noise, "uniform": uniform_noise, "salt": salt_and_pepper}


def single(attack: Attack, x: Any, f: Any) -> AttackResult:
    return cases.compiled(lambda a, x: a(KEY, f, x, jnp.int32(0)))(attack, x)


@pytest.mark.parametrize(("name", "kurtosis"), [("gaussian", 3.0), ("uniform", 1.8)])
def test_noise_has_the_stated_law_and_size(name: str, kurtosis: float) -> None:
    """A model that any nonzero perturbation fools shows the first draw."""
    n = 20_000
    x = jnp.full(n, 0.5)
    f = lambda z: jnp.stack([jnp.zeros(()), jnp.max(jnp.abs(z - 0.5)) - 1e-9])  # noqa: E731
    result = single(NOISES[name](L2(2.0), levels=4, repeats=2), x, f)
    noise = np.asarray(result.x, np.float64) - 0.5
    assert float(result.norm) == pytest.approx(2.0 / 4, rel=1e-4)
    assert int(result.forwards) == 3
    assert noise.mean() / noise.std() == pytest.approx(0, abs=0.03)
    assert (noise**4).mean() / noise.var() ** 2 == pytest.approx(kurtosis, rel=0.05)


def test_salt_and_pepper_sets_a_growing_share_to_black_or_white() -> None:
    n = 20_000
    x = jnp.full(n, 0.4)
    # fooled once more than 45 % of the coordinates have moved: at the third of five amplitudes
    f = lambda z: jnp.stack([jnp.zeros(()), jnp.mean(jnp.abs(z - 0.4) > 0) - 0.45])  # noqa: E731
    attack = salt_and_pepper(L1(float(n)), levels=5, repeats=2)
    result = single(attack, x, f)
    z = np.asarray(result.x)
    assert set(np.unique(z)) == {np.float32(0), np.float32(0.4), np.float32(1)}
    assert (z == 0).mean() == pytest.approx(0.3, abs=0.02)
    assert (z == 1).mean() == pytest.approx(0.3, abs=0.02)
    assert int(result.forwards) == 1 + 5 + 1


@pytest.mark.parametrize("make", [Linf, L2, L1])
@pytest.mark.parametrize("name", ["gaussian", "uniform"])
def test_stops_at_the_smallest_amplitude_that_fools(name: str, make: Any) -> None:
    threat = make(0.2)
    x = jnp.full((3, 4), 0.5)
    f = lambda z: jnp.stack([jnp.zeros(()), threat.size(x, z) - 0.13])  # noqa: E731
    result = single(NOISES[name](threat, levels=10, repeats=3), x, f)
    assert result.success
    assert float(result.norm) == pytest.approx(0.14, abs=1e-5)
    assert int(result.forwards) == 1 + 6 * 3 + 1 + 1


@pytest.mark.parametrize("name", sorted(NOISES))
def test_contract(name: str) -> None:
    x = jnp.asarray(np.random.default_rng(0).uniform(size=(2, 5)), jnp.float32)
    traces = []

    @cases.compiled
    def run(attack: Attack, key: jax.Array, slope: jax.Array, x: jax.Array) -> AttackResult:
        traces.append(1)
        f = lambda z: jnp.stack([jnp.ones(()), slope * jnp.sum(z - x)])  # noqa: E731
        return attack(key, f, x, jnp.int32(0))

    build = lambda radius: NOISES[name](Linf(radius), levels=3, repeats=4)  # noqa: E731
    result = run(build(0.1), KEY, jnp.float32(0.1), x)
    assert (bool(result.success), bool(result.inside)) == (False, True)
    assert int(result.forwards) == 1 + 12 + 1
    assert result.margin > -1, "failing, the draw of largest margin is returned"
    assert result.x.min() >= 0
    assert result.x.max() <= 1
    assert np.array_equal(run(build(0.1), KEY, jnp.float32(0.1), x).x, result.x)
    other = run(build(0.1), jax.random.key(9), jnp.float32(0.1), x)
    assert not np.array_equal(other.x, result.x)
    still = run(build(0.0), KEY, jnp.float32(0.1), x)
    assert np.array_equal(still.x, x)
    assert float(run(build(0.05), KEY, jnp.float32(0.1), x).norm) <= 0.05 + 1e-6
    broken = run(build(0.1), KEY, jnp.float32(np.nan), x)
    assert broken.success
    assert int(broken.forwards) == 2
    assert len(traces) == 1


def test_impossible_settings() -> None:
    with pytest.raises(ValueError, match="levels"):
        gaussian_noise(Linf(0.1), levels=0)
    with pytest.raises(ValueError, match="repeats"):
        uniform_noise(Linf(0.1), repeats=0)
    with pytest.raises(ValueError, match="must be finite, got inf"):
        salt_and_pepper(Linf(0.1, upper=np.inf))


@pytest.mark.slow
def test_noise_cannot_be_scaled_by_moves_of_mass() -> None:
    x = jnp.linspace(0.2, 0.8, 16).reshape(4, 4)
    for name in ("gaussian_noise", "uniform_noise"):
        with pytest.raises(ValueError, match=f"{name} scales noise in the threat's norm"):
            getattr(noise, name)(Wasserstein(0.3))
    moved = lambda z: jnp.stack([jnp.float32(0.1), jnp.max(jnp.abs(z - x))])  # noqa: E731
    assert single(salt_and_pepper(Wasserstein(0.3)), x, moved).success
