"""When multipliers are good enough: the residuals that matter, and what a dtype can resolve."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from jaxrobust.sinkhorn.dual import Duals, Moves, Problem, shortfall
from jaxrobust.sinkhorn.window import Layout
from jaxrobust.types import Array


class Residuals(NamedTuple):
    """How far multipliers are from optimal, and the scales to judge it by."""

    gap: Array
    """z of the multipliers less the plan's column sums: `[C, N]`, the dual's gradient in beta."""
    over: Array
    """`<P, C>` - radius, the gradient in psi; 0 where psi is not free."""
    free: Array
    """bool: psi moves. It does not where it is held, or 0 (too small to matter) and to fall."""
    columns: Array
    """The l1 norm of `gap`."""
    moving: Array
    """The mass that leaves its pixel."""
    radius: Array
    rounding: Array
    """What rounding may leave of `columns`."""
    blur: Array
    """The relative error of shares whose exponents are rounded."""

    def within(self, tolerance: Array) -> Array:
        """bool: column sums to `tolerance` of the moving mass, budget to `tolerance`, relatively.

        Or as near as rounding lets them be. NaN is never within.
        """
        tolerance = tolerance + self.blur
        level = self.columns <= tolerance * self.moving + self.rounding
        return level & (jnp.abs(self.over) <= tolerance * self.radius)


def residuals(
    layout: Layout, problem: Problem, duals: Duals, share: Array, now: Moves, held: bool
) -> Residuals:
    """The residuals of `duals`, whose plan is `share` and moves `now`; `held` fixes psi."""
    eps = jnp.finfo(share.dtype).eps
    gap = problem.step - shortfall(problem, duals.beta) - now.moved
    matters = duals.psi * jnp.max(problem.cost) > eps
    free = (matters | (now.spent > problem.radius)) & (not held)
    leaving = problem.x * (1 - layout.stays(share)[len(share) // 2])
    terms = jnp.abs(problem.step) + jnp.abs(duals.beta) / problem.lam + leaving
    spread = jnp.max(duals.beta) - jnp.min(duals.beta) + duals.psi * jnp.max(problem.cost)
    return Residuals(
        gap,
        jnp.where(free, now.spent - problem.radius, 0),
        free,
        jnp.sum(jnp.abs(gap)),
        jnp.sum(leaving),
        problem.radius,
        4 * eps * jnp.sum(terms),
        eps * (8 + spread),
    )
