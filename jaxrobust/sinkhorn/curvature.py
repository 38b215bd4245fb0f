"""Products with the semi-dual's Hessian, two stencils each, and linear systems in it."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust.sinkhorn.dual import Duals, Moves, Problem
from jaxrobust.sinkhorn.window import Layout, total
from jaxrobust.types import Array

_MOST_PRODUCTS = 100


class Curvature(NamedTuple):
    """The negative Hessian at a plan: lines `[C, N]` unless noted."""

    share: Array
    """The plan's shares, `[K, C, ...]`, padded."""
    x: Array
    stiffness: Array
    """1/lam where z is free of its upper bound, plus the plan's column sums."""
    rate: Array
    """What a unit of mass leaving pixel i pays on average."""
    paid: Array
    """What the mass arriving at pixel j has paid."""
    paid_squares: Array
    """<P, C^2>, a scalar."""
    free: Array
    """bool: psi moves; otherwise it is left out of the system."""
    diagonal: Duals

    def norm(self, v: Duals) -> Array:
        """The norm of `v` in the inverse of the diagonal."""
        return jnp.sqrt(dot(v, self.precondition(v)))

    def precondition(self, v: Duals) -> Duals:
        """`v` over the diagonal."""
        return Duals(v.beta / self.diagonal.beta, v.psi / self.diagonal.psi)


def dot(a: Duals, b: Duals) -> Array:
    """The inner product."""
    return jnp.sum(a.beta * b.beta) + a.psi * b.psi


def along(a: Duals, t: Array, b: Duals) -> Duals:
    """a + t b."""
    return Duals(a.beta + t * b.beta, a.psi + t * b.psi)


def curvature(
    layout: Layout,
    problem: Problem,
    share: Array,
    now: Moves,
    own: Array,
    free: Array,
) -> Curvature:
    """The negative Hessian at multipliers whose plan is `share` and moves `now`.

    `own` is the curvature of each pixel's own term: 1/lam, or 0 at its upper bound. `free` says
    whether psi takes part.
    """
    cost = problem.cost
    here = layout.stays(share)
    there = layout.arrivals(share, problem.x)
    stiffness = own + problem.x + now.moved
    rate = total(c * s for c, s in zip(cost, here, strict=True))
    squares = jnp.sum(problem.x * total(c * c * s for c, s in zip(cost, here, strict=True)))
    spread = squares - jnp.sum(problem.x * rate * rate)
    remain = total(
        a * s for a, s in zip(there, layout.arrivals(share, jnp.ones_like(rate)), strict=True)
    )
    return Curvature(
        share,
        problem.x,
        stiffness,
        rate,
        total(c * a for c, a in zip(cost, there, strict=True)),
        squares,
        free,
        Duals(stiffness - remain, jnp.where(free & (spread > 0), spread, 1)),
    )


def product(layout: Layout, h: Curvature, v: Duals) -> Duals:
    """The negative Hessian times `v`; the identity on a psi that is not free."""
    psi = jnp.where(h.free, v.psi, 0)
    mean = h.x * (layout.gather(h.share, v.beta) - psi * h.rate)
    beta = h.stiffness * v.beta - psi * h.paid - layout.scatter(h.share, mean)
    own = psi * h.paid_squares + jnp.sum(mean * h.rate) - jnp.sum(h.paid * v.beta)
    return Duals(beta, jnp.where(h.free, own, v.psi))


def solve(layout: Layout, h: Curvature, b: Duals, reduction: Array) -> tuple[Duals, Array]:
    """Conjugate gradients, preconditioned by the diagonal, and the number of products spent.

    Stops when the residual's norm has fallen by `reduction`.
    """
    residual = h.precondition(b)
    size = dot(b, residual)

    def unfinished(state: tuple) -> Array:
        *_, now, count = state
        return (now > reduction**2 * size) & (count < _MOST_PRODUCTS)

    def advance(state: tuple) -> tuple:
        v, r, direction, now, count = state
        image = product(layout, h, direction)
        bend = dot(direction, image)
        t = jnp.where(bend > 0, now / bend, 0)
        v, r = along(v, t, direction), along(r, -t, image)
        z = h.precondition(r)
        then = dot(r, z)
        # Where rounding has left no curvature the direction so far has to do.
        then = jnp.where(bend > 0, then, 0)
        return v, r, along(z, then / now, direction), then, count + 1

    zero = jax.tree.map(jnp.zeros_like, b)
    start = (zero, b, residual, size, jnp.asarray(0, jnp.int32))
    v, *_, count = jax.lax.while_loop(unfinished, advance, start)
    return v, count
