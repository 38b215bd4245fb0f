"""The union of balls: membership, gauge, projection and steepest step from their definitions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.threats import L1, L2, Linf, Spatial, Union

RADII = (0.15, 0.25, 0.5)
SETS = Union((Linf(RADII[0]), L2(RADII[1]), L1(RADII[2])))
X = np.random.default_rng(0).uniform(0.2, 0.8, (2, 3)).astype(np.float32)
ORDERS = (np.inf, 2, 1)


def ratios(d: np.ndarray) -> list[float]:
    return [np.linalg.norm(d.ravel(), p) / r for p, r in zip(ORDERS, RADII, strict=True)]


def points() -> np.ndarray:
    """Around `X`: scattered ones, and corners of cubes, which are far in l2 and l1."""
    draw = np.random.default_rng(1)
    scale = draw.uniform(0.01, 0.2, (200, 1, 1))
    sparse = draw.uniform(size=(200, 2, 3)) < draw.uniform(size=(200, 1, 1))
    moves = scale * draw.normal(size=(200, 2, 3)) * sparse
    moves[:40] = scale[:40] * draw.choice([-1, 1], (40, 2, 3))
    return np.clip(X + moves, 0, 1).astype(np.float32)


def test_gauge_and_membership() -> None:
    z = points()
    size = np.asarray(jax.jit(jax.vmap(lambda p: SETS.size(X, p)))(z))
    inside = np.asarray(jax.jit(jax.vmap(lambda p: SETS.contains(X, p)))(z))
    expected = np.array([min(ratios(np.float64(p) - X)) for p in z])
    np.testing.assert_allclose(size, expected, rtol=1e-4, atol=1e-6)
    clear = np.abs(expected - 1) > 1e-4
    np.testing.assert_array_equal(inside[clear], (expected <= 1)[clear])
    assert 20 < inside.sum() < 180
    # Each member holds some point that no other does, so none is idle.
    sole = [tuple(r <= 1 for r in ratios(np.float64(p) - X)) for p in z]
    assert {(True, False, False), (False, False, True)} <= set(sole)


def test_projection_is_the_closest_of_the_members() -> None:
    z = points()
    project = jax.jit(jax.vmap(lambda p: SETS.project(X, p)))
    got = np.asarray(project(z))
    closest = np.full(len(z), np.inf)
    for member in SETS.members:
        each = np.asarray(jax.vmap(lambda p, m=member: m.project(X, p))(z))
        closest = np.minimum(closest, np.linalg.norm((each - z).reshape(len(z), -1), axis=1))
    moved = np.linalg.norm((got - z).reshape(len(z), -1), axis=1)
    np.testing.assert_allclose(moved, closest, atol=1e-6)
    assert jax.vmap(lambda p: SETS.contains(X, p))(got).all()
    np.testing.assert_allclose(project(got), got, atol=1e-6)


def test_steepest_step_attains_the_dual_norm() -> None:
    gradients = np.random.default_rng(2).normal(size=(50, 2, 3)).astype(np.float32)
    middle = jnp.full((2, 3), 0.5)
    for g in gradients:
        step = np.asarray(SETS.steepest(g, middle))
        dual = max(
            r * np.linalg.norm(g.ravel(), q) for r, q in zip(RADII, (1, 2, np.inf), strict=True)
        )
        assert float(SETS.dual_norm(g)) == pytest.approx(dual, rel=1e-5)
        assert (step * g).sum() == pytest.approx(dual, rel=1e-5)
        assert min(ratios(step)) == pytest.approx(1, rel=1e-5)


def test_samples_come_from_every_member() -> None:
    keys = jax.random.split(jax.random.key(0), 300)
    draws = jax.jit(jax.vmap(lambda k: SETS.sample(k, X)))(keys)
    assert jax.vmap(lambda p: SETS.contains(X, p))(draws).all()
    outside = [[r > 1 + 1e-4 for r in ratios(np.float64(p) - X)] for p in np.asarray(draws)]
    assert np.any(outside, axis=0).all()


def test_radius_scales_all_members_and_maps() -> None:
    stack = Union((Linf(0.1), L2(0.25)), radius=jnp.array([0.0, 0.5, 1.0]))
    z = X + np.float32(0.04)
    np.testing.assert_array_equal(jax.vmap(lambda s: s.contains(X, z))(stack), [False, True, True])
    far = X + np.float32(0.3)
    pushed = jax.vmap(lambda s: s.project(X, far))(stack)
    np.testing.assert_array_equal(pushed[0], X)


def test_bad_unions() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Union(())
    with pytest.raises(ValueError, match="one common pixel box"):
        Union((Linf(0.1), L2(0.1, lower=-1.0)))
    with pytest.raises(ValueError, match="radius must be finite"):
        Union((Linf(0.1),), radius=-1.0)
    # of one span, and not one box
    masked = L2(0.1, lower=np.array([0.0, 0.5]), upper=np.array([1.0, 0.5]))
    for other in (Linf(0.1), L2(0.1, lower=np.array([0.5, 0.0]), upper=np.array([0.5, 1.0]))):
        with pytest.raises(ValueError, match="one common pixel box"):
            Union((masked, other))
    Union((masked, Linf(0.1, masked.lower, masked.upper)))
    for member in ("linf", Spatial(), 0.1):
        with pytest.raises(ValueError, match=r"a union holds balls with a pixel box.*, got"):
            Union((Linf(0.1), member))
