"""Cost windows and the stencils of local plans."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.sinkhorn import Duals, block_ascent, projected, window
from jaxrobust.sinkhorn.window import layout


def test_costs_are_powers_of_pixel_distances():
    cost = window(5, p=2)
    assert cost.shape == (5, 5)
    assert cost[2, 2] == 0
    np.testing.assert_allclose(cost[0], [8, 5, 4, 5, 8])
    np.testing.assert_allclose(window(3), [[2**0.5, 1, 2**0.5], [1, 0, 1], [2**0.5, 1, 2**0.5]])


@pytest.mark.parametrize(
    ("shape", "sides"), [((4, 5), (3, 5)), ((3, 4, 2), (5, 1)), ((1, 1), (3, 3))]
)
def test_stencils_follow_the_offsets_and_are_adjoint(shape, sides):
    rng = np.random.default_rng(0)
    image = rng.normal(size=shape).astype(np.float32)
    lay = layout(image, np.zeros(sides))
    lines = lay.lines(jnp.asarray(image))
    np.testing.assert_array_equal(lay.image(lines), image)

    pad = [(s // 2, s // 2) for s in sides] + [(0, 0)] * (len(shape) - 2)
    around = np.pad(image, pad, constant_values=-7)
    views = [
        around[a : a + shape[0], b : b + shape[1]] for a in range(sides[0]) for b in range(sides[1])
    ]
    outside = lay.shifts(lay.lines(jnp.asarray(image), -7.0), -7.0)
    for shifted, view in zip(outside, views, strict=True):
        np.testing.assert_array_equal(lay.image(shifted), view)

    plan = lay.padded(jnp.asarray(rng.normal(size=(len(views), *lines.shape)), jnp.float32))
    other = lay.lines(jnp.asarray(rng.normal(size=shape), jnp.float32))
    there, back = jax.jit(lambda p, a, b: (lay.gather(p, a), lay.scatter(p, b)))(plan, lines, other)
    np.testing.assert_allclose(jnp.sum(there * other), jnp.sum(lines * back), rtol=1e-4, atol=1e-5)


def test_bad_input_is_named():
    x = jnp.ones((4, 4))
    good = {"radius": 0.1, "lam": 10.0, "cost": window(3)}
    for message, changes in {
        "odd sides": {"cost": np.zeros((2, 3))},
        "one pixel, in which nothing moves": {"cost": np.zeros((1, 1))},
        r"start must be the `duals` of an earlier projection, got \(1, 2\)": {"start": (1, 2)},
        r"start.psi must be a scalar, got shape \(3,\)": {"start": Duals(x, jnp.ones(3))},
        "center": {"cost": np.ones((3, 3))},
        "cost must be finite": {"cost": -window(3)},
        "radius": {"radius": -1.0},
        "one number": {"radius": np.ones(3)},
        "lam": {"lam": 0.0},
        "steps": {"steps": 0},
        "tolerance": {"tolerance": 0.0},
        "upper must be a number, or inf": {"upper": np.nan},
        r"x and start.beta must have one shape, got \(4, 4\) and \(2, 8\)": {
            "start": Duals(jnp.zeros((2, 8)), jnp.ones(()))
        },
    }.items():
        with pytest.raises(ValueError, match=message):
            projected(x, x, **{**good, **changes})
        with pytest.raises(ValueError, match=message):
            block_ascent(x, x, **{**good, **changes})
    with pytest.raises(ValueError, match="w must hold real numbers, got complex64"):
        projected(x, x.astype(jnp.complex64), **good)
    with pytest.raises(ValueError, match="size must be a whole number of at least 3, got 1"):
        window(1)
    with pytest.raises(ValueError, match=r"p must be one number, got shape \(2,\)"):
        window(3, p=np.ones(2))
    with pytest.raises(ValueError, match="one shape"):
        projected(x, x[:3], **good)
    with pytest.raises(ValueError, match=r"jax\.vmap"):
        projected(x[0], x[0], **good)
    with pytest.raises(ValueError, match="floating"):
        projected(x.astype(jnp.int32), x.astype(jnp.int32), **good)
    with pytest.raises(ValueError, match=r"nonnegative, as mass is, but has a pixel of -0\.5"):
        projected(x.at[1, 2].set(-0.5), x, **good)
    with pytest.raises(ValueError, match="odd"):
        window(4)
