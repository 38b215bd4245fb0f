"""Planes around products, and networks that multiply what depends on the input."""

import dual_cases as cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import duals
from jaxrobust.duals.relaxations import relaxation
from jaxrobust.threats import L2, Linf

W = np.random.default_rng(0).normal(size=(5, 8, 8)).astype(np.float32) / 3


def attention(x):
    """Two heads over 4 tokens of 4 numbers, RMS norm, GELU and a softmax over 3 classes."""
    tokens = (W[0] @ x.reshape(8, 2)).reshape(4, 4)
    scale = jax.lax.rsqrt(jnp.mean(tokens * tokens, axis=1, keepdims=True) + 0.1)
    tokens = tokens * scale
    q, k, v = ((tokens @ W[i, :4, :4]).reshape(4, 2, 2).transpose(1, 0, 2) for i in (1, 2, 3))
    mixed = jax.nn.softmax(jnp.einsum("hid,hjd->hij", q, k)) @ v
    tokens = tokens + mixed.transpose(1, 0, 2).reshape(4, 4)
    return jax.nn.log_softmax((W[4] @ jax.nn.gelu(tokens).reshape(8, 2)).ravel()[:3])


def gated(x):
    return (W[0] @ x) * jax.nn.sigmoid(W[1] @ x) / (2 + jnp.square(W[2] @ x))


def least_by_search(f, rows, threat, x):
    """[rows]: least values at random points of the ball and at the ends of descents."""
    far = type(threat)(threat.radius, -np.inf, np.inf)

    def descended(row, start):
        slope = jax.grad(lambda z: row @ f(z))

        def step(z, _):
            move = jnp.asarray(threat.radius, z.dtype) / 4 * far.steepest(-slope(z), z)
            return far.project(x, z + move), None

        return jax.lax.scan(step, start, length=20)[0]

    points = cases.ball_points(threat, x, count=200)
    ends = jax.vmap(lambda row: jax.vmap(lambda z: descended(row, z))(points[:8]))(rows)
    values = jax.vmap(f)(jnp.concatenate([points, ends.reshape(-1, *x.shape)]))
    return jnp.min(values @ rows.T, axis=0)


def compared(f, ball, methods, radii):
    """[radii, rows]: bounds, and least values found."""
    x = jnp.asarray(np.random.default_rng(1).normal(size=16 if f is attention else 8), jnp.float32)
    eye = jnp.eye(f(x).size, dtype=jnp.float32)
    rows = jnp.concatenate([eye, -eye, eye[:1] - eye[1:2]])

    @jax.jit
    @jax.vmap
    def both(radius):
        threat = ball(radius, -jnp.inf, jnp.inf)
        found = duals.lower_bounds(f, x, rows, threat, methods=methods)
        return found, least_by_search(f, rows, threat, x), rows @ f(x)

    return tuple(np.asarray(v) for v in both(jnp.asarray(radii, jnp.float32)))


def test_planes_bound_the_product():
    rng = np.random.default_rng(0)
    ends = rng.normal(size=(2, 2, 300)) * 10 ** rng.uniform(-3, 3, size=(2, 2, 300))
    ends[:, :, :40] = np.round(ends[:, :, :40])
    lower, upper = (jnp.asarray(v, jnp.float32) for v in (ends.min(0), ends.max(0)))
    known = relaxation("product")
    alphas = [None, *(jnp.full_like(lower, a) for a in (0.0, 0.3, 0.5, 1.0))]
    low, high = (np.asarray(v, np.float64) for v in (lower, upper))
    share = np.linspace(0, 1, 21)
    x, y = (low[k] + np.subtract(high[k], low[k]) * share[:, None] for k in (0, 1))
    x, y = x[:, None], y[None]
    least, most = (np.asarray(v, np.float64) for v in known.range(lower, upper))
    size = np.maximum(np.abs(low), np.abs(high)).prod(0) + 1e-30
    assert np.min((x * y - least) / size) > -1e-6
    assert np.min((most - x * y) / size) > -1e-6
    for alpha in alphas:
        s, i, t, j = (np.asarray(v, np.float64) for v in known.lines(lower, upper, alpha))
        below = (x * y - s[0] * x - s[1] * y - i) / size
        above = (t[0] * x + t[1] * y + j - x * y) / size
        assert min(below.min(), above.min()) > -1e-6
        if alpha is not None:
            # each plane touches
            assert max(below.min((0, 1)).max(), above.min((0, 1)).max()) < 1e-5


def multiplied(x):
    return (W[0] @ x) * (W[1] @ x)


@pytest.mark.parametrize("f", [multiplied, pytest.param(gated, marks=pytest.mark.slow)])
def test_bounds_of_products_hold(f):
    found, least, clean = compared(f, Linf, ("interval", "crown"), [0.0, 1e-3, 0.05, 0.3])
    assert np.all(found <= least)
    # to first order, where the ball is small
    assert np.mean((clean - found)[1] / (clean - least)[1]) < 1.2


@pytest.mark.slow
@pytest.mark.parametrize("ball", [Linf, L2])
@pytest.mark.parametrize("methods", [("interval",), ("wong_kolter",), ("interval", "crown")])
def test_bounds_of_attention_hold(ball, methods):
    found, least, clean = compared(attention, ball, methods, [0.0, 1e-3, 0.02, 0.2, 1.0])
    assert np.all(~(found > least))
    assert np.isfinite(found[:4]).all()
    if methods != ("interval",):
        assert np.mean((clean - found)[1] / (clean - least)[1]) < 1.3


@pytest.mark.slow
def test_slopes_of_products_are_optimized():
    x = jnp.asarray(np.random.default_rng(1).normal(size=8), jnp.float32)
    rows, threat = jnp.eye(8)[:3], Linf(0.2, -jnp.inf, jnp.inf)
    plain = duals.lower_bounds(gated, x, rows, threat, methods=("interval", "crown"))
    found = duals.optimized_bounds(gated, x, rows, threat, steps=30, methods=("interval", "crown"))
    assert np.all(found.lower >= plain)
    assert np.mean(found.lower - plain) > 1e-3
    assert np.all(found.lower <= least_by_search(gated, rows, threat, x))
    for alpha, node in zip(found.alphas, duals.trace(gated, x).nodes, strict=True):
        assert alpha.shape == (3, *node.source.shape)


def test_programs_refuse_products():
    x = jnp.ones(8, jnp.float32)
    with pytest.raises(ValueError, match="multiplies two values"):
        duals.lp_bounds(gated, x, jnp.eye(8)[:1], Linf(0.1))
    with pytest.raises(ValueError, match="not piecewise linear"):
        duals.exact_margin(gated, x, 0, Linf(0.1))
