"""Products with the semi-dual's Hessian, two stencils each, and linear systems in it."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust.sinkhorn.dual import Duals, Problem
from jaxrobust.sinkhorn.window import Layout, total
from jaxrobust.types import Array

_MOST_PRODUCTS = 100


class Hessian(NamedTuple):
    """The negative Hessian at a plan: lines `[C, N]` unless noted.

    What stays at its pixel cancels from it, exactly: where next to all mass does, the rest is
    smaller than the rounding of a row's sum.
    """

    share: Array
    """The plan's shares, `[K, C, ...]`, padded."""
    x: Array
    own: Array
    """Each pixel's own term: 1/lam where z is free of its upper bound."""
    arriving: Array
    """The mass that comes from other pixels."""
    rate: Array
    """What a unit of mass leaving pixel i pays on average."""
    paid: Array
    """What the mass arriving at pixel j has paid."""
    paid_squares: Array
    """`<P, C^2>`, a scalar."""
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


def hessian(
    layout: Layout,
    problem: Problem,
    share: Array,
    own: Array,
    free: Array,
) -> Hessian:
    """The negative Hessian at multipliers whose plan is `share` and moves `now`.

    `own` is the curvature of each pixel's own term: 1/lam, or 0 at its upper bound. `free` says
    whether psi takes part.
    """
    cost = problem.cost
    here = layout.stays(share)
    there = layout.arrivals(share, problem.x)
    center = len(share) // 2
    moving = [k for k in range(len(share)) if k != center]
    arriving = total(there[k] for k in moving)
    leaving = total(here[k] for k in moving)
    rate = total(c * s for c, s in zip(cost, here, strict=True))
    squares = jnp.sum(problem.x * total(c * c * s for c, s in zip(cost, here, strict=True)))
    spread = squares - jnp.sum(problem.x * rate * rate)
    arrives = layout.arrivals(share, jnp.ones_like(rate))
    # sum of x s (1 - s) over a column; at the center 1 - s is what leaves.
    diagonal = problem.x * here[center] * leaving + total(
        there[k] * (1 - arrives[k]) for k in moving
    )
    return Hessian(
        share,
        problem.x,
        own,
        arriving,
        rate,
        total(c * a for c, a in zip(cost, there, strict=True)),
        squares,
        free,
        Duals(own + diagonal, jnp.where(free & (spread > 0), spread, 1)),
    )


def product(layout: Layout, h: Hessian, v: Duals) -> Duals:
    """The negative Hessian times `v`; the identity on a psi that is not free."""
    psi = jnp.where(h.free, v.psi, 0)
    center = len(h.share) // 2
    here, near = layout.stays(h.share), layout.shifts(v.beta)
    moving = [k for k in range(len(here)) if k != center]
    # The mean of v over a row, less the v of its own pixel.
    lead = h.x * (total(here[k] * (near[k] - v.beta) for k in moving) - psi * h.rate)
    mean = h.x * v.beta + lead
    arrivals = layout.arrivals(h.share, mean)
    beta = (h.own + h.arriving) * v.beta - psi * h.paid - here[center] * lead
    beta = beta - total(arrivals[k] for k in moving)
    own = psi * h.paid_squares + jnp.sum(mean * h.rate) - jnp.sum(h.paid * v.beta)
    return Duals(beta, jnp.where(h.free, own, v.psi))


def solve(layout: Layout, h: Hessian, b: Duals, reduction: Array) -> tuple[Duals, Array]:
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
