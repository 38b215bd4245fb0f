"""The linear oracle of a local Wasserstein ball: a maximizer without entropy."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust.float_bisection import largest_where
from jaxrobust.sinkhorn.dual import Duals, Moves, Problem, exponents, moves
from jaxrobust.sinkhorn.problem import pose, require_shape
from jaxrobust.sinkhorn.window import Layout
from jaxrobust.types import Array, Scalar


class Maximizer(NamedTuple):
    """A maximizer of `<y, z>` over a ball, and the proof."""

    z: Array
    cost: Array
    """`<P, C>` of the plan from x to z: at most the radius."""
    bound: Array
    """The dual value: no image of the ball exceeds it, and `<y, z>` misses it by rounding only."""


class Best(NamedTuple):
    """Where each pixel's mass goes at a price; lines `[C, N]` over the padded pixels."""

    gain: Array
    """max_delta (y_{i+delta} - y_i - psi C_delta), at least 0."""
    fee: Array
    """C of the cheapest offset that attains it."""
    attains: list[Array]
    """Whether each offset attains the gain at that fee."""


def linear_maximizer(x: Array, y: Array, *, radius: Scalar, cost: Array) -> Maximizer:
    """Maximizes `<y, z>` over the images z that local transport of cost <= radius makes of x.

    Pixels have no upper bound. With x's mass taken as 1, the dual is one-dimensional,

        min_{psi >= 0}  psi radius + sum_i x_i max_delta (y_{i+delta} - psi C_delta),

    each pixel sending its mass to its best offset (to the cheapest of tied ones). psi is bisected
    to the last float, and the plans on its two sides are mixed so that the radius is spent
    exactly. The linear minimization oracle of Wu, Wang and Yu (2020, "Stronger and faster
    Wasserstein adversarial attacks", arXiv:2008.02883), for local plans and without their entropic
    regularization. Not differentiable.

    Args:
      x: the clean image, `[H, W]` or `[H, W, C]`, nonnegative, of any total.
      y: the coefficients of the linear function, of `x`'s shape.
      radius: the most transport cost, for all of `x`'s mass taken as 1.
      cost: the window `[rows, columns]` of transport costs, as in `projected`.

    Returns:
      A `Maximizer`: `z`, the image, of `x`'s shape and in its units; `cost`, a scalar, the
      transport cost of the plan from x to z, at most the radius; and `bound`, a scalar in the units
      of `<y, z>`, which no image of the ball exceeds.

    Raises:
      ValueError: a `y` that has not `x`'s shape, and as `projected`, for the arguments that they
        share.
    """
    require_shape("y", y, x)
    x, y = jax.lax.stop_gradient((jnp.asarray(x), jnp.asarray(y)))
    posed = pose(x, x, radius=radius, lam=1.0, cost=cost)
    layout, problem = posed.layout, posed.problem
    values = layout.lines(jnp.asarray(y, problem.x.dtype))
    now, bound = vertices(layout, problem, values)
    z = jnp.where(posed.trivial, x, jnp.maximum(x + posed.mass * layout.image(now.moved), 0))
    stay = jnp.sum(x * y)
    return Maximizer(
        z,
        jnp.where(posed.trivial, 0, now.spent),
        jnp.where(posed.trivial, stay, stay + posed.mass * bound),
    )


def respond(layout: Layout, cost: Array, values: Array, psi: Array) -> Best:
    """Where mass goes for `values` `[C, N]` at the price `psi` of transport."""
    terms = exponents(layout, cost, Duals(values, psi))
    gain = functools.reduce(jnp.maximum, terms)
    fees = [jnp.where(t == gain, c, jnp.inf) for t, c in zip(terms, cost, strict=True)]
    fee = functools.reduce(jnp.minimum, fees)
    return Best(gain, fee, [f == fee for f in fees])


def vertices(layout: Layout, problem: Problem, values: Array) -> tuple[Moves, Array]:
    """The maximizing plan's effect for `values` `[C, N]`, and the dual bound less `<values, x>`."""
    m, n = layout.margin, layout.length

    def choose(psi: Array) -> Best:
        return respond(layout, problem.cost, values, psi)

    def spent(psi: Array) -> Array:
        return jnp.sum(problem.x * choose(psi).fee[:, m : m + n])

    def plan(best: Best) -> Array:
        chosen = jnp.stack(best.attains).astype(values.dtype)
        return chosen / jnp.sum(chosen, axis=0)[None]

    most = jnp.asarray(jnp.finfo(values.dtype).max, values.dtype)
    low = largest_where(lambda psi: spent(psi) > problem.radius, most)
    binds = spent(low) > problem.radius
    high = jnp.where(binds, jnp.nextafter(low, most), low)
    dear, cheap = spent(low), spent(high)
    gap = dear - cheap
    mix = jnp.where(gap > 0, (problem.radius - cheap) / jnp.where(gap > 0, gap, 1), 0)
    mix = jnp.clip(mix, 0, 1)
    best = choose(high)
    now = moves(layout, problem, plan(best) * (1 - mix) + plan(choose(low)) * mix)
    bound = high * problem.radius + jnp.sum(problem.x * best.gain[:, m : m + n])
    over = now.spent > problem.radius
    shrink = jnp.where(over, problem.radius / jnp.where(over, now.spent, 1), 1)
    return Moves(shrink * now.moved, shrink * now.spent), bound
