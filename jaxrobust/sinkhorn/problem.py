"""A projection posed in units of the image's mass, and what it returns."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxrobust import checks
from jaxrobust.sinkhorn.dual import Duals, Problem
from jaxrobust.sinkhorn.window import Layout, costs, layout
from jaxrobust.types import Array, Scalar


class ProjectionInfo(NamedTuple):
    """The evidence for a projection; scalars."""

    iterations: Array
    """int32: Newton steps, or rounds of the block iteration."""
    products: Array
    """int32: Hessian products spent in conjugate gradients; 0 for the block iteration."""
    residual: Array
    """l1 distance between the plan's column sums and the z of the multipliers, in image masses.

    With the budget met, it bounds the l2 distance to the true entropic projection.
    """
    cost: Array
    """`<P, C>` of the plan that moves x to the returned image: at most the radius."""
    psi: Array
    """The price of transport: the multiplier of the budget, at least 0."""
    converged: Array
    """bool: residual and budget are within tolerance, or within what the dtype resolves."""
    clipped: Array
    """Mass that the final clip to [0, upper] changed, in image masses."""


class Projection(NamedTuple):
    """An image inside the ball, the evidence for it, and multipliers to start the next one from."""

    z: Array
    info: ProjectionInfo
    duals: Duals
    """beta in the image's shape, and psi: the next call's `start`."""


class Posed(NamedTuple):
    """A problem in lines, and what leads back to the image; never crosses a `jit` or `vmap`."""

    layout: Layout
    problem: Problem
    image: Array
    upper: Array
    mass: Array
    trivial: Array
    """bool: the image is empty or the radius 0, and the answer is the image itself."""


def pose(
    x: Array, w: Array, *, radius: Scalar, lam: Scalar, cost: Array, upper: Scalar = np.inf
) -> Posed:
    """The projection of `w` onto the ball around `x`, both divided by `x`'s mass.

    `upper` is never below `x`. Raises ValueError for integer or mismatched images, for an `x` with
    negative pixels, for a window that `costs` refuses, for a negative radius, for `lam <= 0` and
    for an `upper` that is NaN.
    """
    dtype = jnp.result_type(x)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"transport needs floating-point images, got {dtype}; divide by 255")
    require_shape("w", w, x)
    if checks.is_concrete(x) and (np.asarray(x) < 0).any():
        raise ValueError(
            f"x must be nonnegative, as mass is, but has a pixel of {np.min(x)}; "
            "clip what rounding left below 0"
        )
    checks.nonnegative("radius", radius)
    checks.positive("lam", lam)
    for name, number in (("radius", radius), ("lam", lam), ("upper", upper)):
        if np.shape(number):
            raise ValueError(
                f"{name} must be one number, got shape {np.shape(number)}; "
                "map over several with jax.vmap"
            )
    if checks.is_concrete(upper) and np.isnan(upper):
        raise ValueError("upper must be a number, or inf where pixels have no bound, got nan")
    lay = layout(x, cost)
    x, w = jnp.asarray(x, dtype), jnp.asarray(w, dtype)
    upper = jnp.maximum(jnp.asarray(upper, dtype), x)
    total = jnp.sum(x)
    mass = jnp.where(total > 0, total, 1)
    radius = jnp.asarray(radius, dtype)
    trivial = (total == 0) | (radius == 0)
    # An infinite bound stays out of the arithmetic, whose derivative would be NaN.
    finite = jnp.isfinite(upper)
    room = jnp.where(finite, (jnp.where(finite, upper, x) - x) / mass, jnp.inf)
    problem = Problem(
        lay.lines(x) / mass,
        lay.lines(w - x) / mass,
        lay.lines(room, jnp.inf),
        jnp.where(radius > 0, radius, 1),
        jnp.asarray(lam, dtype),
        costs(cost, dtype),
    )
    return Posed(lay, problem, x, upper, mass, trivial)


def require_shape(name: str, value: Array, x: Array) -> None:
    """Raises ValueError unless `value` has the shape of the image `x`, and real numbers."""
    if np.shape(value) != np.shape(x):
        raise ValueError(
            f"x and {name} must have one shape, got {np.shape(x)} and {np.shape(value)}"
        )
    if np.iscomplexobj(value):
        raise ValueError(f"{name} must hold real numbers, got {jnp.result_type(value)}")


def require_start(start: Duals, x: Array) -> None:
    """Raises ValueError unless `start` holds the multipliers of an image of `x`'s shape."""
    if not isinstance(start, Duals):
        raise ValueError(f"start must be the `duals` of an earlier projection, got {start!r}")
    require_shape("start.beta", start.beta, x)
    if np.shape(start.psi):
        raise ValueError(f"start.psi must be a scalar, got shape {np.shape(start.psi)}")


def require_precision(image: Array) -> None:
    """Raises ValueError for a dtype in which no sharp plan can be computed."""
    if jnp.result_type(image) not in (jnp.float32, jnp.float64):
        raise ValueError(f"this needs float32 or float64 images, got {jnp.result_type(image)}")
