"""A thousand random networks and balls: neither sampled points nor PGD get below a bound."""

import dual_cases as cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import duals
from jaxrobust.threats import L1, L2, Linf

NETWORKS = 1000
METHODS = ("interval", "wong_kolter", "crown")
C = np.concatenate([np.eye(3), -np.eye(3)])


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


def descended(f, row, threat, x):
    """The last of ten steepest steps down row . f from `x`, within the ball without its box."""
    far = type(threat)(threat.radius, -np.inf, np.inf)
    slope = jax.grad(lambda z: row @ f(z))

    def step(z, _):
        move = far.steepest(-slope(z), z)
        return far.project(x, z + jnp.asarray(threat.radius, x.dtype) / 3 * move), None

    return jax.lax.scan(step, x, length=10)[0]


@pytest.mark.slow
@pytest.mark.parametrize("ball", [Linf, L2, L1])
def test_nothing_gets_below_a_bound(ball):
    stacked = jax.tree.map(
        lambda *w: jnp.stack(w), *(cases.weights(s, (4, 6, 5, 3)) for s in range(NETWORKS))
    )
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.uniform(size=(NETWORKS, 4)))
    radius = jnp.asarray(10 ** rng.uniform(-2, 0, NETWORKS))

    @jax.jit
    @jax.vmap
    def compared(parameters, x, radius):
        f, threat = cases.mlp(jax.nn.relu, parameters), ball(radius)
        found = [
            duals.lower_bounds(f, x, jnp.asarray(C), threat, methods=methods)
            for methods in (METHODS[:1], METHODS[1:2], METHODS)
        ]
        points = cases.ball_points(threat, x, count=20)
        steepest = jax.vmap(lambda row: descended(f, row, threat, x))(jnp.asarray(C))
        values = jax.vmap(f)(jnp.concatenate([points, steepest])) @ C.T
        return jnp.stack(found), values.min(axis=0)

    bounds, least = (np.asarray(a) for a in compared(stacked, x, radius))
    assert np.isfinite(bounds).all()
    assert (bounds <= least[:, None]).all()
    # The comparison is a tight one: many points come close to their bound.
    assert np.mean(bounds[:, -1] > least - 0.01) > 0.1
