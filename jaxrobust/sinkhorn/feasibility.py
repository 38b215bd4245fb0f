"""From multipliers to an image that is exactly feasible, whatever they are worth."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxrobust.sinkhorn.dual import Duals, Moves, Problem, moves, shares
from jaxrobust.sinkhorn.problem import Posed, Projection, ProjectionInfo
from jaxrobust.sinkhorn.window import Layout, total
from jaxrobust.types import Array

_PATIENCE = 30
"""Rounds of refusing exactly what does not fit; then pixels refuse more, and it ends soon."""
_MOST_ROUNDS = 300


def make_feasible(
    posed: Posed,
    duals: Duals,
    logs: Array,
    *,
    iterations: Array,
    products: Array,
    residual: Array,
    converged: Array,
    derivative: Callable[[Moves], Moves] = lambda now: now,
) -> Projection:
    """The image inside ball and box that the plan of `duals`, whose rows are exact, leads to.

    `logs` is their `partition`. Mass that arrives above the upper bound goes back first (`undo`).
    Then z <- x + min(1, eps / `<P, C>`) (z - x): plans are a convex set and standing still costs
    nothing, so that the budget is met exactly; exact rows keep the mass. The final clip to
    [0, upper] has rounding left to do. `derivative` gives the plan's effect its derivative.
    """
    layout, problem = posed.layout, posed.problem
    fixed, at, logs = jax.lax.stop_gradient((problem, duals, logs))
    share = shares(layout, fixed.cost, at, logs)
    # Rounded exponents of sharp problems can send away more than a pixel holds.
    leaves = total(s for k, s in enumerate(layout.stays(share)) if k != len(share) // 2)
    fixed = fixed._replace(x=fixed.x / jnp.maximum(leaves, 1))
    plan = moves(layout, fixed, share)
    kept = undo(layout, fixed, share, plan)
    true = derivative(plan)
    moved = true.moved + (kept.moved - plan.moved)
    spent = true.spent + (kept.spent - plan.spent)

    over = spent > problem.radius
    shrink = jnp.where(over, problem.radius / jnp.where(over, spent, 1), 1)
    aim = posed.image + posed.mass * shrink * layout.image(moved)
    z = jnp.where(posed.trivial, posed.image, jnp.clip(aim, 0, posed.upper))
    info = ProjectionInfo(
        iterations=iterations,
        products=products,
        residual=residual,
        cost=jnp.where(posed.trivial, 0, shrink * spent),
        psi=duals.psi,
        converged=converged,
        clipped=jnp.where(posed.trivial, 0, jnp.sum(jnp.abs(z - aim)) / posed.mass),
    )
    return Projection(z, jax.lax.stop_gradient(info), Duals(layout.image(at.beta), at.psi))


def undo(layout: Layout, problem: Problem, share: Array, plan: Moves) -> Moves:
    """The plan's effect when pixels accept only the share of each arrival that fits their bound.

    What is refused stays where it was, where it may leave less room in turn: the greatest
    acceptance f with f in - out(f) <= room, by monotone iteration from f = 1. Transport only
    decreases, so that its cost does. Converged multipliers need a few rounds for their tolerance.
    Where many rounds are not enough, as between full pixels, more is refused than has to be.
    """
    center = len(share) // 2
    here = layout.stays(share)
    arrivals = layout.arrivals(share, problem.x)
    arriving = total(v for k, v in enumerate(arrivals) if k != center)
    least = 4 * jnp.finfo(share.dtype).eps * jnp.sum(arriving)

    def overfull(state: tuple[Array, Array, Array]) -> Array:
        accept, out, rounds = state
        excess = jnp.sum(jnp.maximum(accept * arriving - out - problem.room, 0))
        return (excess > least) & (rounds < _MOST_ROUNDS)

    def refuse(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        accept, out, rounds = state
        fits = (problem.room + out) / jnp.where(arriving > 0, arriving, 1)
        less = jnp.where(rounds < _PATIENCE, fits, fits / 2)
        accept = jnp.where((arriving > 0) & (fits < accept), less, accept)
        goes = zip(here, layout.shifts(accept), strict=True)
        out = problem.x * total(go * a for k, (go, a) in enumerate(goes) if k != center)
        return accept, out, rounds + 1

    start = (jnp.ones_like(arriving), arriving - plan.moved, jnp.asarray(0, jnp.int32))
    accept, out, _ = jax.lax.while_loop(overfull, refuse, start)
    paid = total(c * v for c, v in zip(problem.cost, arrivals, strict=True))
    return Moves(accept * arriving - out, jnp.sum(accept * paid))
