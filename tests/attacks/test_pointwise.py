"""Pointwise attack: what it leaves changed is needed, and only as far as needed."""

from __future__ import annotations

import attack_cases as cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.attacks.pointwise import STARTS, pointwise
from jaxrobust.threats import L1, Linf
from jaxrobust.types import Attack, AttackResult

KEY = jax.random.key(6)
W = np.random.default_rng(0).normal(size=20)
X = np.random.default_rng(1).uniform(0.3, 0.7, (4, 5)).astype(np.float32)
GAIN = np.sort(np.maximum((1 - X.ravel()) * W, -X.ravel() * W))[::-1]
OFFSET = float(X.ravel() @ W + 0.5 * (GAIN[:3].sum() + GAIN[:4].sum()))
FEWEST = 4  # coordinates that reach the offset, taking the most effective ones


def np_fools(z: np.ndarray, offset: float) -> bool:
    return bool(z.astype(np.float64).ravel() @ W >= offset)


@cases.compiled
def run(attack: Attack, key: jax.Array, offset: jax.Array, x: jax.Array) -> AttackResult:
    score = lambda z: jnp.sum(z.reshape(-1) * W.astype(np.float32))  # noqa: E731
    return attack(key, lambda z: jnp.stack([offset, score(z)]), x, jnp.int32(0))


@pytest.mark.parametrize("seed", range(3))
def test_every_change_left_is_needed(seed: int) -> None:
    result = run(pointwise(L1(20.0)), jax.random.key(seed), jnp.float32(OFFSET), X)
    z = np.asarray(result.x)
    assert result.success
    assert np_fools(z, OFFSET - 1e-4)
    changed = np.argwhere(z != X)
    assert FEWEST <= len(changed) <= 3 * FEWEST
    for i, j in changed:
        reset = z.copy()
        reset[i, j] = X[i, j]
        assert not np_fools(reset, OFFSET)
        # Bisected to a thousandth of its way, at least in the last pass.
        shorter = z.copy()
        shorter[i, j] += 2e-3 * (X[i, j] - z[i, j])
        assert not np_fools(shorter, OFFSET + 1e-3)
    assert float(result.norm) == pytest.approx(np.abs(z - X).sum(), rel=1e-5)
    assert int(result.forwards) > 2 + len(changed) * 11


def test_what_is_broken_or_unbreakable_stays_where_it_is() -> None:
    attack = pointwise(L1(20.0))
    for offset, success, forwards in ((-100.0, True, 2), (100.0, False, 2 + STARTS)):
        result = run(attack, KEY, jnp.float32(offset), X)
        assert bool(result.success) == success
        assert np.array_equal(result.x, X)
        assert int(result.forwards) == forwards
    nan = run(attack, KEY, jnp.float32(np.nan), X)
    assert nan.success
    assert np.array_equal(nan.x, X)


def test_the_threat_only_judges() -> None:
    far = run(pointwise(L1(20.0)), KEY, jnp.float32(OFFSET), X)
    near = run(pointwise(L1(0.1)), KEY, jnp.float32(OFFSET), X)
    assert np.array_equal(far.x, near.x)
    assert (bool(near.success), bool(near.inside)) == (False, False)


def test_impossible_settings() -> None:
    with pytest.raises(ValueError, match="must be finite, got inf"):
        pointwise(Linf(0.1, upper=np.inf))
    with pytest.raises(ValueError, match="passes"):
        pointwise(L1(0.1), passes=0)


def test_a_batch_equals_single_runs() -> None:
    keys = jax.random.split(KEY, 3)
    offsets = jnp.array([OFFSET, 0.8 * OFFSET, 100.0], jnp.float32)
    attack = pointwise(L1(20.0))
    together = jax.vmap(lambda k, o: run(attack, k, o, X))(keys, offsets)
    for i in range(3):
        single = run(attack, keys[i], offsets[i], X)
        np.testing.assert_allclose(together.x[i], single.x, atol=1e-6)
        assert together.forwards[i] == single.forwards
