"""Balls and boxes whose numbers differ between coordinates: masks, scales, held coordinates."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.threats import L1, L2, Linf, Union

THREATS = (Linf, L2, L1)
ORDERS = {Linf: np.inf, L2: 2, L1: 1}
SHAPE = (3, 4)
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.uniform(size=SHAPE), jnp.float32)
Z = X + jnp.asarray(RNG.normal(size=SHAPE), jnp.float32)
G = jnp.asarray(RNG.normal(size=SHAPE), jnp.float32)
MASK = jnp.asarray(RNG.integers(0, 2, SHAPE), jnp.float32)
RADII = jnp.asarray(RNG.choice([0.0, 0.05, 0.2, 1.0], SHAPE), jnp.float32)

every_threat = pytest.mark.parametrize("make", THREATS)


@every_threat
def test_a_mask_is_the_ball_of_the_free_coordinates(make):
    masked, whole = make(0.3 * MASK), make(0.3)
    free = MASK > 0
    found = masked.project(X, Z)
    np.testing.assert_array_equal(found[~free], X[~free])
    np.testing.assert_allclose(found[free], whole.project(X[free], Z[free]), atol=1e-6)
    step = masked.steepest(G, X)
    np.testing.assert_allclose(step[free], whole.steepest(G[free], X[free]), atol=1e-6)
    assert not np.any(step[~free])
    assert masked.contains(X, found)
    # A coordinate that is held may not move at all.
    assert not masked.contains(X, jnp.where(free, X, X + 0.01))


@every_threat
def test_projections_stay_within_the_radii_and_where_they_are(make):
    threat = make(RADII)
    for key in jax.random.split(jax.random.key(0), 20):
        for point in (
            threat.sample(key, X),
            threat.project(X, X + 2 * jax.random.normal(key, SHAPE)),
        ):
            part = np.asarray(point - X)[RADII > 0] / np.asarray(RADII)[RADII > 0]
            assert np.linalg.norm(part, ORDERS[make]) <= 1 + 1e-5
            assert threat.contains(X, point)
            assert threat.size(X, point) == pytest.approx(
                np.linalg.norm(part, ORDERS[make]), rel=1e-4
            )
            assert 0 <= point.min() <= point.max() <= 1
            np.testing.assert_array_equal(point[RADII == 0], X[RADII == 0])
            np.testing.assert_allclose(threat.project(X, point), point, atol=1e-6)
    assert not threat.contains(X, X + 1.1 * RADII)


@every_threat
def test_equal_radii_are_one_radius(make):
    one, each = make(0.3), make(jnp.full(SHAPE, 0.3))
    np.testing.assert_allclose(each.project(X, Z), one.project(X, Z), atol=1e-6)
    np.testing.assert_allclose(each.steepest(G, X), one.steepest(G, X), atol=1e-6)
    assert each.size(X, Z) == pytest.approx(float(one.size(X, Z)) / 0.3, rel=1e-5)


@every_threat
def test_steepest_steps_climb_most_for_their_length(make):
    threat = make(RADII, -jnp.inf, jnp.inf)
    step = threat.steepest(G, X)
    # of all points of the set, the one in this direction is the best
    edge = step / threat.size(X, X + step)
    best = np.linalg.norm(np.asarray(RADII * G).ravel(), {np.inf: 1, 2: 2, 1: np.inf}[ORDERS[make]])
    if make is not Linf:
        assert jnp.sum(edge * G) == pytest.approx(best, rel=1e-4)
    assert jnp.sum(step * G) > 0


@every_threat
def test_a_box_of_arrays_holds_what_it_closes(make):
    lower, upper = jnp.where(MASK > 0, 0.0, X), jnp.where(MASK > 0, 1.0, X)
    threat = make(0.3, lower, upper)
    assert jnp.shape(threat.radius) == ()
    found = threat.project(X, Z)
    np.testing.assert_array_equal(found[MASK == 0], X[MASK == 0])
    assert threat.contains(X, found)
    assert threat.size(X, found) == pytest.approx(
        np.linalg.norm(np.asarray(found - X).ravel(), ORDERS[make]), rel=1e-5
    )


def test_gradients_with_radii_are_finite():
    for make in THREATS:
        gradient = jax.grad(lambda r, make=make: jnp.sum(make(r).project(X, Z) ** 2))(RADII)
        assert np.isfinite(gradient).all()


def test_a_union_takes_radii_for_each_coordinate():
    union = Union((Linf(RADII), L2(2 * RADII)))
    assert union.contains(X, union.project(X, Z))
    scaled = dataclasses.replace(union, radius=0.5)
    assert scaled.contains(X, scaled.project(X, Z))
