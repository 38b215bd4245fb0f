"""Damped Newton ascent on the semi-dual."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust.sinkhorn.budget_multiplier import budget_multiplier
from jaxrobust.sinkhorn.dual import (
    Duals,
    Problem,
    moves,
    partition,
    shares,
    shortfall,
    spending,
    value,
)
from jaxrobust.sinkhorn.hessian import along, dot, hessian, solve
from jaxrobust.sinkhorn.residuals import residuals
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

    Each step solves the Newton system to a tolerance that falls with the square of the
    gradient's decrease (Eisenstat and Walker, 1996, "Choosing the forcing terms in an inexact
    Newton method", choice 2), then halves the step until the dual value rises, up to rounding.
    Where the transport cost is far from the radius, psi alone is moved first: in it the dual is
    exponential, where Newton steps go astray. lam starts at `first` and grows to the problem's;
    the multipliers grow with it, so that prices beta / lam carry over.

    Ends when `Residuals.within(tolerance)` holds, after `steps` steps, or where the value no
    longer rises. Where `skip` holds nothing is done. Not differentiable.
    """
    eps = jnp.finfo(problem.x.dtype).eps

    def measure(problem: Problem, duals: Duals) -> Dual:
        logs = partition(layout, problem.cost, duals)
        height, scale = value(layout, problem, duals, logs)
        return Dual(duals, logs, height, 8 * eps * scale)

    def unfinished(s: Ascent) -> Array:
        return ~(s.converged | s.stalled) & (s.iterations < steps)

    def advance(s: Ascent) -> Ascent:
        here, duals = problem._replace(lam=s.lam), s.dual.at
        share = shares(layout, problem.cost, duals, s.dual.logs)
        now = moves(layout, problem, share)
        r = residuals(layout, here, duals, share, now, held)
        final = s.lam == problem.lam
        converged = final & r.within(tolerance)
        raised = ~final & r.within(jnp.maximum(tolerance, _LOOSE))

        lam = jnp.where(raised, jnp.minimum(_GROWTH * s.lam, problem.lam), s.lam)
        growth = lam / s.lam
        base = Duals(duals.beta * growth, duals.psi * growth)
        wrong = (r.over != 0) & (jnp.abs(jnp.log(now.spent / problem.radius)) > jnp.log(_OFF))
        repriced = ~converged & (raised | wrong) & (not held)
        psi = budget_multiplier(
            lambda psi: spending(layout, problem, Duals(base.beta, psi)),
            problem.radius,
            duals.psi,
            skip=~repriced,
        ).psi
        base = Duals(base.beta, jnp.where(repriced, psi, base.psi))

        still = converged | raised | repriced
        gradient = Duals(jnp.where(still, 0, r.gap), jnp.where(still, 0, r.over))
        h = hessian(layout, here, share, secant(here, duals.beta, r.gap), r.free)
        size = h.norm(gradient)
        wanted = jnp.maximum((size / s.size) ** 2, tolerance * r.moving / (4 * r.columns))
        direction, products = solve(layout, h, gradient, jnp.minimum(wanted, _FORCING))
        slope = dot(gradient, direction)

        change = jnp.maximum(
            jnp.max(direction.beta) - jnp.min(direction.beta),
            jnp.abs(direction.psi) * jnp.max(problem.cost),
        )
        longest = jnp.minimum(1, _REACH / change)

        def falls(tried: tuple[Array, Dual]) -> Array:
            t, there = tried
            enough = s.dual.value + 1e-4 * t * slope - s.dual.rounding
            short = (slope > 0) & ~(there.value >= enough) & (t > _LEAST_STEP)
            return (t > longest) | short

        def shorten(tried: tuple[Array, Dual]) -> tuple[Array, Dual]:
            t = tried[0] / 2
            beta, psi = along(base, t, direction)
            return t, measure(here._replace(lam=lam), Duals(beta, jnp.maximum(psi, 0)))

        t, there = jax.lax.while_loop(falls, shorten, (2 * longest, s.dual))
        return Ascent(
            lam,
            there,
            r.columns,
            converged,
            ~(raised | repriced) & (~(slope > 0) | (t <= _LEAST_STEP)),
            jnp.where(still, jnp.inf, size),
            s.iterations + jnp.where(converged, 0, 1),
            s.products + products,
        )

    first = jnp.minimum(first, problem.lam)
    begin = Duals(start.beta * (first / problem.lam), start.psi)
    zero, none = jnp.zeros_like(first), jnp.asarray(0, jnp.int32)
    dual = measure(problem._replace(lam=first), begin)
    no = jnp.asarray(False)
    state = Ascent(first, dual, zero, skip, no, zero + jnp.inf, none, none)
    return jax.lax.while_loop(unfinished, advance, state)


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
