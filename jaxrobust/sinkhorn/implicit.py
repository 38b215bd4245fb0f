"""The derivative of a projection, by the implicit function theorem at the optimum."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from jaxrobust.sinkhorn.dual import Duals, Moves, Problem, moves, partition, shares, shortfall
from jaxrobust.sinkhorn.hessian import Hessian, hessian, product, solve
from jaxrobust.sinkhorn.window import Layout


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def implicit(layout: Layout, problem: Problem, duals: Duals, now: Moves) -> Moves:
    """`now`, with the derivative in `problem` that the implicit function theorem gives."""
    return now


@implicit.defjvp
def _implicit_jvp(layout: Layout, primals: tuple, tangents: tuple) -> tuple[Moves, Moves]:
    problem, duals, now = primals

    def plan(problem: Problem, duals: Duals) -> Moves:
        logs = partition(layout, problem.cost, duals)
        return moves(layout, problem, shares(layout, problem.cost, duals, logs))

    def gradient(problem: Problem) -> Duals:
        at = plan(problem, duals)
        to = problem.step - shortfall(problem, duals.beta)
        return Duals(to - at.moved, at.spent - problem.radius)

    h = _hessian_at(layout, problem, duals, now)
    _, change = jax.jvp(gradient, (problem,), tangents[:1])
    # the solver's transpose asks that all of its right-hand side depends on tangents; where w or
    # the radius alone is differentiated, one half of it would not
    tie = 0 * (change.beta[0, 0] + change.psi)
    change = Duals(change.beta + tie, jnp.where(h.free, change.psi + tie, 0))
    accuracy = jnp.sqrt(jnp.finfo(problem.x.dtype).eps)
    response = jax.lax.custom_linear_solve(
        lambda v: product(layout, h, v),
        change,
        lambda _, b: solve(layout, h, b, accuracy)[0],
        symmetric=True,
    )
    _, moved = jax.jvp(plan, (problem, duals), (tangents[0], response))
    return now, moved


def _hessian_at(layout: Layout, problem: Problem, duals: Duals, now: Moves) -> Hessian:
    problem, duals, now = jax.lax.stop_gradient((problem, duals, now))
    logs = partition(layout, problem.cost, duals)
    share = shares(layout, problem.cost, duals, logs)
    clear = shortfall(problem, duals.beta) > problem.step - problem.room
    ridge = jnp.finfo(problem.x.dtype).eps ** 0.5
    own = jnp.where(clear, 1, ridge).astype(share.dtype) / problem.lam
    binds = duals.psi > 0
    return hessian(layout, problem, share, own, binds)
