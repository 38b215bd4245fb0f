"""Linear maximizers, projections without entropy and distances, against explicit programs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sinkhorn_oracles as oracle

from jaxrobust.sinkhorn import conjugate, distance, exact_projection, linear_maximizer, window

COST = window(3)
RADII = np.array([0.0, 0.01, 0.1, 0.5, 50.0])


def images(seed):
    rng = np.random.default_rng(seed)
    shape = (len(RADII), 4, 5)
    x = rng.uniform(size=shape) * (rng.uniform(size=shape) < 0.7)
    return x, rng.normal(size=shape)


def run64(function, *arguments):
    with jax.enable_x64(True):
        found = jax.jit(jax.vmap(function))(*(jnp.asarray(v, jnp.float64) for v in arguments))
        return jax.tree.map(np.asarray, found)


@pytest.fixture(scope="module")
def maximized():
    """Generic and tied images and values, and their linear maximizers."""
    (x, y), (other, values) = images(0), images(1)
    x, y = np.concatenate([x, np.ceil(other)]), np.concatenate([y, np.round(values)])
    radii = np.tile(RADII, 2)

    def run(x, y, radius):
        return linear_maximizer(x, y, radius=radius, cost=COST)

    return x, y, radii, run64(run, x, y, radii)


def test_linear_maximizer_is_the_linear_programs(maximized):
    x, y, radii, found = maximized
    best = [oracle.maximum(*case, COST) for case in zip(x, y, radii, strict=True)]
    np.testing.assert_allclose(np.sum(found.z * y, axis=(1, 2)), best, atol=1e-9)
    np.testing.assert_allclose(found.bound, best, atol=1e-9)
    np.testing.assert_allclose(found.z.sum((1, 2)), x.sum((1, 2)))
    assert (found.cost <= radii).all()
    np.testing.assert_array_equal(found.z[0], x[0])
    np.testing.assert_allclose(found.cost[1:3], radii[1:3])
    for case, z, radius in zip(x, found.z, radii, strict=True):
        assert oracle.distance(case, z, COST) <= radius + 1e-6


def test_conjugate_nears_the_maximum_as_entropy_vanishes():
    x, y = images(1)

    def run(x, y, radius, lam):
        return conjugate(x, y, radius=radius, lam=lam, cost=COST)

    best = [oracle.maximum(*case, COST) for case in zip(x, y, RADII, strict=True)]
    compiled = jax.jit(jax.vmap(run, (0, 0, 0, None)))
    x32, y32, radii = (jnp.asarray(v, jnp.float32) for v in (x, y, RADII))
    values = []
    for lam in (1.0, 10.0, 1000.0):
        found = compiled(x32, y32, radii, lam)
        values.append(np.sum(np.asarray(found.z, np.float64) * y, axis=(1, 2)))
        assert (found.info.cost <= radii * (1 + 1e-6)).all()
        assert found.info.converged.all()
        np.testing.assert_allclose(found.z.sum((1, 2)), x.sum((1, 2)), rtol=1e-5)
    assert (np.diff(values, axis=0) >= -1e-4).all()
    np.testing.assert_allclose(values[-1], best, rtol=1e-3)
    # a direction out of reach of all mass moves nothing
    corner = np.zeros_like(x32)
    corner[:, 0, 0] = 1
    far = compiled(jnp.asarray(corner), jnp.asarray(corner[:, ::-1, ::-1]), radii, 10.0)
    np.testing.assert_array_equal(far.z, corner)


@pytest.mark.slow
def test_exact_projection_is_the_quadratic_programs():
    x, y = (np.concatenate(v) for v in zip(images(2), images(3), strict=True))
    w, radii = x + 0.4 * y, np.tile(RADII, 2)
    uppers = np.repeat([np.inf, 1.0], len(RADII))

    def run(x, w, radius, upper):
        return exact_projection(x, w, radius=radius, cost=COST, upper=upper)

    found = run64(run, x, w, radii, uppers)
    for k, (z, gap) in enumerate(zip(found.z, found.gap, strict=True)):
        best = oracle.closest(x[k], w[k], radii[k], COST, uppers[k])
        least, reached = (np.sum((w[k] - v) ** 2) / 2 for v in (best, z))
        assert reached - least <= gap + 1e-6, k
        assert gap <= 2e-3 * least, k
        assert np.linalg.norm(z - best) <= np.sqrt(2 * gap) + 1e-3, k
        assert oracle.distance(x[k], z, COST) <= radii[k] + 1e-6, k
        assert z.max() <= uppers[k], k


def test_distance_is_the_linear_programs(maximized):
    """For the sharp images of linear maximizers and for blurred ones; 0 for the image itself."""
    x, _, _, found = maximized
    rng = np.random.default_rng(5)
    rows, columns, _ = oracle.transport(x.shape[1:], COST)
    plan = rng.uniform(size=rows.shape[1]) ** 8
    blurred = [
        (columns @ (plan * (rows.T @ (v.ravel() / (rows @ plan))))).reshape(v.shape) for v in x
    ]
    x, z = (np.concatenate(v).astype(np.float32) for v in ([x, x], [found.z, blurred]))

    compiled = jax.jit(jax.vmap(lambda x, z: distance(x, z, cost=COST)))
    bounds = compiled(x, z)
    true = np.array([oracle.distance(a, b, COST, 1e-7) for a, b in zip(x, z, strict=True)])
    assert bounds.converged.all()
    np.testing.assert_allclose(bounds.lower, true, rtol=0.02, atol=1e-6)
    np.testing.assert_allclose(bounds.estimate, true, rtol=0.01, atol=1e-6)
    assert (bounds.lower <= true + 1e-5).all()
    assert true[1] > 0
    np.testing.assert_array_equal(bounds.lower[0], 0)
    # more mass cannot be transported: it is left over
    assert (compiled(x, 1.5 * x).residual > 0.49).all()


def test_bad_images_are_named():
    x, y = jnp.full((3, 4), 0.5), jnp.ones((4, 3))
    for name, call in (
        ("w", lambda x, w: exact_projection(x, w, radius=0.1, cost=COST)),
        ("y", lambda x, y: linear_maximizer(x, y, radius=0.1, cost=COST)),
        ("y", lambda x, y: conjugate(x, y, radius=0.1, lam=10.0, cost=COST)),
        ("z", lambda x, z: distance(x, z, cost=COST)),
    ):
        # of as many pixels: a reshape would take it
        told = rf"x and {name} must have one shape, got \(3, 4\) and \(4, 3\)"
        with pytest.raises(ValueError, match=told):
            call(x, y)
        with pytest.raises(ValueError, match="x must be nonnegative"):
            call(-x, x)
        call(x, -x)
    half = x.astype(jnp.bfloat16)
    for call in (distance, functools.partial(exact_projection, radius=0.1)):
        with pytest.raises(ValueError, match="needs float32 or float64 images, got bfloat16"):
            call(half, half, cost=COST)
