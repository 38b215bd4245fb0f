"""The local transport distance between two images of equal mass."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import checks
from jaxrobust.float_bisection import largest_where
from jaxrobust.sinkhorn.dual import Duals, Problem, moves, shares
from jaxrobust.sinkhorn.linear import respond
from jaxrobust.sinkhorn.newton import maximize
from jaxrobust.sinkhorn.problem import pose, require_precision, require_shape
from jaxrobust.sinkhorn.window import Layout
from jaxrobust.types import Array, Scalar

_SHARPNESS = {4: (100.0, 400.0), 8: (100.0, 400.0, 1600.0)}
"""psi in units of the largest cost, one after another, by bytes per number.

Entropy blurs plans over costs that differ by about the inverse. What rounding allows is found by
trying: each stage adds a bound.
"""
_STIFFNESS = 20.0
"""What mass that misses z pays, per pixel and mass to move, in units of the largest cost."""
_MILD = 4.0
"""The sharpness to begin with."""


class Distance(NamedTuple):
    """The least cost of transporting one image to another, per unit of mass; scalars."""

    lower: Array
    """No local plan from x to z costs less: a dual value, valid whether converged or not."""
    estimate: Array
    """The cost of a plan from x to nearly z, and what the multipliers say the rest would cost.

    An upper bound only where `residual` is 0: to first order in it, otherwise.
    """
    residual: Array
    """l1 distance from z of the image that the plan makes, in image masses.

    It stays large where z has another mass than x, or holds mass out of reach.
    """
    converged: Array
    """bool: the smoothed problem behind both bounds is solved to tolerance."""


def distance(
    x: Array, z: Array, *, cost: Array, tolerance: Scalar = 1e-3, steps: int = 100
) -> Distance:
    """min `<P, C>` over the local plans P that make `z` of `x`.

    Images are divided by `x`'s mass, which must be `z`'s. An entropic transport problem (Cuturi,
    2013, "Sinkhorn distances") with a stiff quadratic penalty in place of the constraint on
    columns, which is `projected`'s semi-dual with psi held, is solved by the same Newton ascent;
    its multipliers give a certified lower bound (`separate`), its plan an estimate.

    Measured against linear programs on 40 6x7 images (distances of 0.001 to 1): in float32 the
    estimate is 0.23 % below to 0.01 % above the distance (median error 0.006 %), and the bound up
    to 1.6 % below it; in float64 up to 0.3 %. Not differentiable.

    Args:
      x: one image, `[H, W]` or `[H, W, C]`, nonnegative.
      z: the other image, of `x`'s shape and mass.
      cost: the window `[rows, columns]` of transport costs, as in `projected`.
      tolerance: what the smoothed problems are solved to, as in `projected`.
      steps: the most Newton steps at each of the sharpnesses that are tried.

    Returns:
      A `Distance` of scalars: `lower`, the certified bound, and `estimate`, both in the units of
      `cost` for each unit of mass; `residual`, the l1 distance in image masses by which the plan
      misses `z`; and `converged`, bool.

    Raises:
      ValueError: images of half precision, and as `projected`, for the arguments that they share
        and for `z` in place of `w`.
    """
    require_shape("z", z, x)
    checks.at_least("steps", steps, 1)
    checks.positive("tolerance", tolerance)
    x, z = jax.lax.stop_gradient((jnp.asarray(x), jnp.asarray(z)))
    require_precision(x)
    posed = pose(x, z, radius=1.0, lam=1.0, cost=cost)
    # No budget: psi is held, and its fee would be a constant of the dual value, next to which the
    # value of a short move is rounded away.
    layout, problem = posed.layout, posed.problem._replace(radius=jnp.zeros_like(posed.problem.lam))
    dtype = problem.x.dtype
    wide = jnp.maximum(jnp.max(problem.cost), jnp.finfo(dtype).tiny)
    moving = jnp.sum(jnp.abs(problem.step))
    still = posed.trivial | (moving == 0)
    stiff = _STIFFNESS * x.size * wide / jnp.where(still, 1, moving)

    def sharpen(prices: Array, stage: tuple[Array, Array]) -> tuple[Array, Distance]:
        first, psi = (s / wide for s in stage)
        sharp = problem._replace(lam=psi * stiff)
        end = maximize(
            layout,
            sharp,
            Duals(psi * prices, first),
            first=first * stiff,
            tolerance=jnp.asarray(tolerance, dtype),
            steps=steps,
            skip=still,
            held=True,
        )
        at = end.dual.at
        share = shares(layout, problem.cost, at, end.dual.logs)
        now = moves(layout, problem, share)
        missed = problem.step - now.moved
        prices = at.beta / at.psi
        estimate = now.spent + jnp.sum(prices * missed)
        lower = separate(layout, problem, prices)
        return prices, Distance(lower, estimate, jnp.sum(jnp.abs(missed)), end.converged)

    sharpness = np.asarray(_SHARPNESS[dtype.itemsize], dtype)
    before = np.concatenate([np.asarray([_MILD], dtype), sharpness[:-1]])
    stages = jnp.asarray(before), jnp.asarray(sharpness)
    # A blurred plan's multipliers are the logarithms of its column sums.
    top = jnp.where(still, 1, jnp.max(z))
    logs = layout.lines(jnp.log(jnp.maximum(z / top, np.exp(-_MILD))))
    _, bounds = jax.lax.scan(sharpen, logs * wide / _MILD, stages)
    # the sharpest stage that converged, or the first
    best = jnp.argmax(jnp.where(bounds.converged, jnp.arange(1, len(sharpness) + 1), 0))
    return Distance(
        jnp.where(still, 0, jnp.max(bounds.lower)),
        jnp.where(still, 0, bounds.estimate[best]),
        jnp.where(still, moving, bounds.residual[best]),
        bounds.converged[best],
    )


def separate(layout: Layout, problem: Problem, prices: Array) -> Array:
    """The largest radius at which `prices` prove the target to lie outside of the ball.

    max over psi > 0 of (`<prices, step>` - sum_i x_i max_delta(p_{i+delta} - p_i - psi C)) / psi:
    the dual value of the prices over psi. Its slope changes sign where the best responses to the
    prices stop being worth more than the target; psi is bisected to that float.
    """
    m, n = layout.margin, layout.length
    worth = jnp.sum(prices * problem.step)

    def responses(psi: Array) -> tuple[Array, Array]:
        best = respond(layout, problem.cost, prices, psi)
        gain, fee = (jnp.sum(problem.x * v[:, m : m + n]) for v in (best.gain, best.fee))
        return gain, gain + psi * fee

    def proves(psi: Array) -> Array:
        return (worth - responses(psi)[0]) / psi

    # Prices are in units of the costs: the psi that fits them best is about 1.
    least, most = jnp.asarray(0.5, worth.dtype), jnp.asarray(1e3, worth.dtype)
    low = largest_where(lambda psi: responses(psi)[1] > worth, most)
    high = jnp.nextafter(low, most)
    low, high = jnp.maximum(low, least), jnp.maximum(high, least)
    return jnp.maximum(jnp.maximum(proves(low), proves(high)), 0)
