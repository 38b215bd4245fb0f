"""Damped Newton ascent on the semi-dual."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust.sinkhorn.budget_multiplier import budget_multiplier
from jaxrobust.sinkhorn.dual import (
    Duals,
    Moves,
    Problem,
    moves,
    partition,
    shares,
    shortfall,
    spending,
    value,
)
from jaxrobust.sinkhorn.hessian import along, dot, hessian, solve
from jaxrobust.sinkhorn.residuals import Residuals, residuals
from jaxrobust.sinkhorn.window import Layout
from jaxrobust.types import Array

_FORCING = 0.1
"""The most that a Newton system's residual may keep of its right-hand side."""
_LEAST_STEP = 2.0**-24
_REACH = 20.0
"""The most that a first trial step may change an exponent: shares change by e to that."""
_LOOSE = 0.1
"""The tolerance at which lam is raised further."""
_GROWTH = 8.0
_OFF = 2.0
"""The factor between transport cost and radius from which psi is first set on its own."""
_RIDGE = 1e-2
"""Curvature, in units of 1/lam, lent to pixels at their upper bound, which have none."""


class Dual(NamedTuple):
    """A point of the dual, its log-partition, its value and the rounding of that value."""

    at: Duals
    logs: Array
    value: Array
    rounding: Array


class Ascent(NamedTuple):
    """Where the ascent stands; `residual` and `converged` belong to the step's start."""

    lam: Array
    dual: Dual
    residual: Array
    converged: Array
    stalled: Array
    size: Array
    """The last gradient's norm in the preconditioner's metric."""
    iterations: Array
    products: Array


class Task(NamedTuple):
    """What the ascent works on, the same in every step; `held` (static) keeps psi where it is."""

    layout: Layout
    problem: Problem
    tolerance: Array
    held: bool


class Plan(NamedTuple):
    """The plan of a step's start, what it does, and how far that is from optimal."""

    share: Array
    moves: Moves
    residuals: Residuals


class Base(NamedTuple):
    """Where a step leads away from: the last point, or one of a raised lam or another psi."""

    at: Duals
    lam: Array
    converged: Array
    raised: Array
    repriced: Array

    @property
    def still(self) -> Array:
        """bool: the step ends here; lam or psi has changed, or nothing has to."""
        return self.converged | self.raised | self.repriced


class Direction(NamedTuple):
    """A Newton direction, and the gradient's slope along it."""

    v: Duals
    slope: Array
    size: Array
    """The gradient's norm, as in `Ascent`."""
    products: Array


def maximize(
    layout: Layout,
    problem: Problem,
    start: Duals,
    *,
    first: Array,
    tolerance: Array,
    steps: int,
    skip: Array,
    held: bool = False,
) -> Ascent:
    """Maximizes the semi-dual over beta and psi >= 0, or with psi `held` over beta.

    A step sets lam and psi (`rebase`), solves the Newton system (`solve_newton`) and walks along
    the solution (`search_line`). lam starts at `first` and grows to the problem's.

    Ends when `Residuals.within(tolerance)` holds, after `steps` steps, or where the value no
    longer rises. Where `skip` holds nothing is done. Not differentiable.
    """
    task = Task(layout, problem, tolerance, held)

    def unfinished(s: Ascent) -> Array:
        return ~(s.converged | s.stalled) & (s.iterations < steps)

    first = jnp.minimum(first, problem.lam)
    begin = Duals(start.beta * (first / problem.lam), start.psi)
    zero, none = jnp.zeros_like(first), jnp.asarray(0, jnp.int32)
    dual = measure(layout, problem._replace(lam=first), begin)
    no = jnp.asarray(False)
    state = Ascent(first, dual, zero, skip, no, zero + jnp.inf, none, none)
    return jax.lax.while_loop(unfinished, functools.partial(advance, task), state)


def measure(layout: Layout, problem: Problem, duals: Duals) -> Dual:
    """The dual at these multipliers."""
    logs = partition(layout, problem.cost, duals)
    height, scale = value(layout, problem, duals, logs)
    return Dual(duals, logs, height, 8 * jnp.finfo(problem.x.dtype).eps * scale)


def advance(task: Task, s: Ascent) -> Ascent:
    """One step of the ascent."""
    here, duals = task.problem._replace(lam=s.lam), s.dual.at
    share = shares(task.layout, here.cost, duals, s.dual.logs)
    now = moves(task.layout, task.problem, share)
    plan = Plan(share, now, residuals(task.layout, here, duals, share, now, task.held))
    base = rebase(task, s, plan)
    direction = solve_newton(task, s, plan, still=base.still)
    t, there = search_line(task, s.dual, base, direction)
    return Ascent(
        base.lam,
        there,
        plan.residuals.columns,
        base.converged,
        ~(base.raised | base.repriced) & (~(direction.slope > 0) | (t <= _LEAST_STEP)),
        jnp.where(base.still, jnp.inf, direction.size),
        s.iterations + jnp.where(base.converged, 0, 1),
        s.products + direction.products,
    )


def rebase(task: Task, s: Ascent, plan: Plan) -> Base:
    """Raises lam once its problem is loosely solved; sets psi anew where the budget is far off.

    The multipliers grow with lam, so that prices beta / lam carry over. Where the transport cost
    is far from the radius, psi alone is moved first: in it the dual is exponential, where Newton
    steps go astray.
    """
    problem, duals, r = task.problem, s.dual.at, plan.residuals
    final = s.lam == problem.lam
    converged = final & r.within(task.tolerance)
    raised = ~final & r.within(jnp.maximum(task.tolerance, _LOOSE))

    lam = jnp.where(raised, jnp.minimum(_GROWTH * s.lam, problem.lam), s.lam)
    growth = lam / s.lam
    base = Duals(duals.beta * growth, duals.psi * growth)
    wrong = (r.over != 0) & (jnp.abs(jnp.log(plan.moves.spent / problem.radius)) > jnp.log(_OFF))
    repriced = ~converged & (raised | wrong) & (not task.held)
    psi = budget_multiplier(
        lambda psi: spending(task.layout, problem, Duals(base.beta, psi)),
        problem.radius,
        duals.psi,
        skip=~repriced,
    ).psi
    at = Duals(base.beta, jnp.where(repriced, psi, base.psi))
    return Base(at, lam, converged, raised, repriced)


def solve_newton(task: Task, s: Ascent, plan: Plan, *, still: Array) -> Direction:
    """The Newton direction at the step's start; 0 where it stays `still`.

    The system is solved to a tolerance that falls with the square of the gradient's decrease
    (Eisenstat and Walker, 1996, "Choosing the forcing terms in an inexact Newton method", choice
    2), and no further than the columns need.
    """
    here, r = task.problem._replace(lam=s.lam), plan.residuals
    gradient = Duals(jnp.where(still, 0, r.gap), jnp.where(still, 0, r.over))
    h = hessian(task.layout, here, plan.share, secant(here, s.dual.at.beta, r.gap), r.free)
    size = h.norm(gradient)
    wanted = jnp.maximum((size / s.size) ** 2, task.tolerance * r.moving / (4 * r.columns))
    v, products = solve(task.layout, h, gradient, jnp.minimum(wanted, _FORCING))
    return Direction(v, dot(gradient, v), size, products)


def search_line(task: Task, last: Dual, base: Base, d: Direction) -> tuple[Array, Dual]:
    """Halves the step until the dual value rises, up to rounding: the step, and where it leads."""
    problem = task.problem
    change = jnp.maximum(
        jnp.max(d.v.beta) - jnp.min(d.v.beta), jnp.abs(d.v.psi) * jnp.max(problem.cost)
    )
    longest = jnp.minimum(1, _REACH / change)

    def falls(tried: tuple[Array, Dual]) -> Array:
        t, there = tried
        enough = last.value + 1e-4 * t * d.slope - last.rounding
        short = (d.slope > 0) & ~(there.value >= enough) & (t > _LEAST_STEP)
        return (t > longest) | short

    def shorten(tried: tuple[Array, Dual]) -> tuple[Array, Dual]:
        t = tried[0] / 2
        beta, psi = along(base.at, t, d.v)
        there = Duals(beta, jnp.maximum(psi, 0))
        return t, measure(task.layout, problem._replace(lam=base.lam), there)

    return jax.lax.while_loop(falls, shorten, (2 * longest, last))


def secant(problem: Problem, beta: Array, gap: Array) -> Array:
    """The curvature of each pixel's own term over the step the pixel would take on its own.

    That is 1/lam where z stays free of its upper bound, nothing (but a ridge) where it stays at
    the bound, and in between where the step crosses the bound: the term is piecewise quadratic,
    and its curvature at the start alone would overshoot or crawl.
    """
    lam, short = problem.lam, shortfall(problem, beta)
    columns = problem.x + problem.step - short - gap
    clear = beta / lam >= short
    free = (gap + short - beta / lam) / (1 / lam + columns)
    bound = (gap + short - (problem.step - problem.room)) / jnp.maximum(
        columns, jnp.finfo(columns.dtype).tiny
    )
    step = jnp.minimum(free, bound)
    moving = step != 0
    alone = jnp.where(clear, 1 / lam, 0)
    mean = jnp.where(moving, gap / jnp.where(moving, step, 1) - columns, alone)
    return jnp.clip(mean, _RIDGE / lam, 1 / lam)
