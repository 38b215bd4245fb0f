"""Boundary attack: the geometry of a step, its adaptation, the closed form, its failures."""

from __future__ import annotations

import attack_cases as cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.attacks.boundary import HALVINGS, STARTS, STRIDE, _candidates, _Rate, _Walk, boundary
from jaxrobust.threats import L2, Linf
from jaxrobust.types import Attack, AttackResult

KEY = jax.random.key(6)
W = np.random.default_rng(0).normal(size=12).astype(np.float32)
X = np.random.default_rng(1).uniform(0.4, 0.6, (3, 4)).astype(np.float32)
DISTANCE = 0.3
TRACES: list[int] = []


@cases.compiled
def run(attack: Attack, key: jax.Array, distance: jax.Array, x: jax.Array) -> AttackResult:
    """Against the half space whose boundary is at `distance` from the reference point `X`."""
    TRACES.append(1)
    label = jnp.float32(np.sum(X.ravel() * W)) + distance * jnp.float32(np.linalg.norm(W))
    return attack(key, lambda z: jnp.stack([label, jnp.sum(z.reshape(-1) * W)]), x, jnp.int32(0))


def test_finds_the_closest_point_of_a_half_space() -> None:
    result = run(boundary(L2(0.31), steps=3000), KEY, jnp.float32(DISTANCE), X)
    assert DISTANCE - 1e-4 < float(result.norm) < 1.01 * DISTANCE
    assert result.success
    start = int(result.forwards) - 2 - HALVINGS - 3000 // STRIDE * (STRIDE + 1)
    assert 1 <= start <= STARTS
    traces = len(TRACES)
    smaller = run(boundary(L2(0.29), steps=3000), KEY, jnp.float32(DISTANCE), X)
    assert len(TRACES) == traces
    assert np.array_equal(smaller.x, result.x), "the radius only judges"
    assert (bool(smaller.success), bool(smaller.inside)) == (False, False)
    edge = X.copy()
    edge[0] = 0.0  # three coordinates that can move one way only
    boxed = run(boundary(L2(1.0), steps=3000), KEY, jnp.float32(DISTANCE), edge)
    assert boxed.x.min() >= 0
    assert boxed.x.max() <= 1
    assert boxed.success


def test_what_is_broken_or_unbreakable_stays_where_it_is() -> None:
    attack = boundary(L2(0.31), steps=3000)
    broken = run(attack, KEY, jnp.float32(-0.1), X)
    assert broken.success
    assert np.array_equal(broken.x, X)
    assert int(broken.forwards) == 2 + HALVINGS
    failed = run(attack, KEY, jnp.float32(100.0), X)
    assert not failed.success
    assert np.array_equal(failed.x, X)
    assert int(failed.forwards) == 2 + STARTS + HALVINGS
    nan = run(attack, KEY, jnp.float32(np.nan), X)
    assert nan.success
    assert np.array_equal(nan.x, X)


def test_a_batch_equals_single_runs() -> None:
    """Short, since a walk follows the last bit of every comparison."""
    keys = jax.random.split(KEY, 3)
    distances = jnp.array([DISTANCE, 100.0, -0.1])
    attack = boundary(L2(0.31), steps=20)
    together = jax.vmap(lambda k, d: run(attack, k, d, X))(keys, distances)
    for i in range(3):
        single = run(attack, keys[i], distances[i], X)
        np.testing.assert_allclose(together.x[i], single.x, atol=1e-4)
        assert together.forwards[i] == single.forwards


def test_a_step_stays_on_the_sphere_then_moves_inward() -> None:
    rate = _Rate(jnp.int32(0), jnp.int32(0))
    z = jnp.asarray(X + 0.1 * W.reshape(3, 4))
    walk = _Walk(z, jnp.float32(0.2), jnp.float32(0.05), rate, rate, jnp.int32(0))
    around, closer = _candidates(KEY, L2(1.0, -np.inf, np.inf), jnp.asarray(X), walk)
    distance = np.linalg.norm(0.1 * W)
    assert np.linalg.norm(around - X) == pytest.approx(distance, rel=1e-5)
    assert np.linalg.norm(closer - X) == pytest.approx(0.95 * distance, rel=1e-5)
    sideways = np.asarray(around - X).ravel() @ W / np.linalg.norm(W)
    assert sideways == pytest.approx(distance / np.sqrt(1 + 0.2**2), rel=1e-5)
    np.testing.assert_allclose(closer - X, 0.95 * (around - X), atol=1e-6)


@pytest.mark.parametrize(("hits", "factor"), [(3, 1 / 1.5), (5, 1.0), (10, 1.0), (11, 1.5)])
def test_step_sizes_follow_the_success_rate(hits: int, factor: float) -> None:
    rate = _Rate(jnp.int32(0), jnp.int32(0))
    for i in range(20):
        rate = rate.note(jnp.bool_(False), jnp.bool_(True))  # not tried: does not count
        change, after = rate.review(0.2, 0.5)
        assert change == 1
        assert after.tried == i
        rate = after.note(jnp.bool_(True), jnp.bool_(i < hits))
    change, after = rate.review(0.2, 0.5)
    assert float(change) == pytest.approx(factor)
    assert after == (0, 0)


def test_impossible_settings() -> None:
    with pytest.raises(TypeError, match="got Linf"):
        boundary(Linf(0.1))
    with pytest.raises(ValueError, match="must be finite, got -inf"):
        boundary(L2(0.1, lower=-np.inf))
    with pytest.raises(ValueError, match="steps"):
        boundary(L2(0.1), steps=0)
    with pytest.raises(ValueError, match="inward"):
        boundary(L2(0.1), inward=0.0)
