"""Closed forms of the l-infinity and Euclidean balls."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import minimize

from jaxrobust.threats import L2, Linf


def test_linf_projection_is_the_closest_point():
    rng = np.random.default_rng(0)
    x, z = rng.uniform(size=6), rng.normal(size=6)
    bounds = [(max(v - 0.3, 0), min(v + 0.3, 1)) for v in x]
    best = minimize(lambda u: ((u - z) ** 2).sum(), x, jac=lambda u: 2 * (u - z), bounds=bounds)
    u = Linf(0.3).project(jnp.asarray(x, jnp.float32), jnp.asarray(z, jnp.float32))
    np.testing.assert_allclose(u, best.x, atol=1e-5)


def test_linf_step_is_the_sign():
    step = Linf(0.1).steepest(jnp.array([3.0, -1e-30, 0.0]), jnp.zeros(3))
    assert step.tolist() == [1, -1, 0]


@pytest.mark.parametrize("radius", [0.5, 2.0, 100.0])
def test_l2_projection_without_a_box_is_the_known_one(radius):
    rng = np.random.default_rng(1)
    x, z = (jnp.asarray(rng.normal(size=(3, 4)), jnp.float32) for _ in range(2))
    u = L2(radius, -jnp.inf, jnp.inf).project(x, z)
    oracle = x + optax.projections.projection_l2_ball(z - x, radius)
    np.testing.assert_allclose(u, oracle, atol=1e-6)


def test_l2_projection_is_ball_then_box():
    x, z = jnp.array([0.9, 0.5]), jnp.array([3.9, 4.5])
    # The step (3, 4) of length 5 shrinks to (0.6, 0.8) of length 1, then the box stops both.
    np.testing.assert_allclose(L2(1.0).project(x, z), [1.0, 1.0], atol=1e-6)
    np.testing.assert_allclose(L2(0.5).project(x, z), [1.0, 0.9], atol=1e-6)


def test_l2_norm_neither_overflows_nor_vanishes():
    threat, x = L2(1.0, -jnp.inf, jnp.inf), jnp.zeros(2)
    for scale in (1e-30, 1e30):
        z = scale * jnp.array([3.0, 4.0])
        assert threat.size(x, z) == pytest.approx(5 * scale)
        np.testing.assert_allclose(jax.grad(lambda z: threat.size(x, z))(z), [0.6, 0.8], rtol=1e-6)
    np.testing.assert_allclose(threat.project(x, 1e30 * jnp.array([3.0, 4.0])), [0.6, 0.8])


def test_l2_step_has_the_known_derivative():
    g = jnp.array([3.0, 4.0])
    unit = np.array([0.6, 0.8])
    jacobian = jax.jacobian(lambda g: L2(1.0).steepest(g, jnp.zeros(2)))(g)
    np.testing.assert_allclose(jacobian, (np.eye(2) - np.outer(unit, unit)) / 5, atol=1e-6)
