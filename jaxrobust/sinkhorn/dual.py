"""The semi-dual of the entropic projection onto a local Wasserstein ball.

With the row multipliers eliminated in closed form, the dual of

    min_{z, P}  lam/2 |w - z|^2 + sum P log P   with P's rows x, columns z <= u, <P, C> <= eps

is to maximize over column multipliers beta (one per pixel) and the price psi >= 0 of transport

    D = min_{z <= u} (lam/2 |w - z|^2 + <beta, z>) - psi eps
        - sum_i x_i logsumexp_delta(beta_{i+delta} - psi C_delta)

which is smooth and concave, and whose plan P_{i,delta} = x_i softmax_delta(...) has exact rows for
any multipliers. Everything is written in displacements from x (step w - x, room u - x, moved
mass), which keeps its precision in small balls.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust.sinkhorn.window import Layout, total
from jaxrobust.types import Array


class Problem(NamedTuple):
    """One projection in units of the image's mass; lines `[C, N]`, scalars and costs `[K]`."""

    x: Array
    """The clean image; its total is 1."""
    step: Array
    """w - x: where the target lies."""
    room: Array
    """u - x >= 0: how far each pixel may rise."""
    radius: Array
    lam: Array
    cost: Array


class Duals(NamedTuple):
    """The multipliers: beta, one per pixel, and psi >= 0, the price of transport."""

    beta: Array
    psi: Array


class Moves(NamedTuple):
    """What a plan does: its column sums less x (`[C, N]`), and `<P, C>`."""

    moved: Array
    spent: Array


def exponents(layout: Layout, cost: Array, duals: Duals) -> list[Array]:
    """beta_{i+delta} - beta_i - psi C_delta for each offset; -inf outside of the image.

    Over the padded lines. At the center it is 0 also for blank pixels, which keeps them finite.
    """
    m, n = layout.margin, layout.length
    edges = layout.lines(jnp.zeros(layout.shape, duals.beta.dtype), -jnp.inf)
    there = jnp.pad(duals.beta + edges, ((0, 0), (2 * m, 2 * m)), constant_values=-jnp.inf)
    here = layout.padded(duals.beta)
    terms = [
        there[:, m + o : 3 * m + o + n] - here - duals.psi * cost[k]
        for k, o in enumerate(layout.offsets)
    ]
    terms[len(terms) // 2] = jnp.zeros_like(here)
    return terms


def partition(layout: Layout, cost: Array, duals: Duals) -> Array:
    """logsumexp of the `exponents`, at least 0, over the padded lines. Differentiable."""
    terms = exponents(layout, cost, duals)
    top = jax.lax.stop_gradient(functools.reduce(jnp.maximum, terms))
    del terms[len(terms) // 2]
    # The center's term is exp(0): written so, the result is precise also near 0, where all stays.
    return top + jnp.log1p(total(jnp.exp(term - top) for term in terms) + jnp.expm1(-top))


def shares(layout: Layout, cost: Array, duals: Duals, logs: Array) -> Array:
    """The fraction of pixel i's mass that goes to i + delta: `[K, C, ...]`, padded.

    `logs` is the `partition`. It is an argument, and an array in memory, because XLA would
    otherwise compute all K exponentials of it anew for each of the K shares.
    """
    return jnp.stack([jnp.exp(term - logs) for term in exponents(layout, cost, duals)])


def moves(layout: Layout, problem: Problem, share: Array) -> Moves:
    """The effect of the plan x_i share[delta, i]. Differentiable."""
    here = layout.stays(share)
    there = layout.arrivals(share, problem.x)
    # What stays cancels exactly: small moves keep their precision.
    moved = total(come - go * problem.x for come, go in zip(there, here, strict=True))
    rate = total(c * go for c, go in zip(problem.cost, here, strict=True))
    return Moves(moved, jnp.sum(problem.x * rate))


def spending(layout: Layout, problem: Problem, duals: Duals) -> tuple[Array, Array]:
    """`<P, C>` of the plan, and minus its derivative in psi, without forming the plan."""
    m, n, cost = layout.margin, layout.length, problem.cost
    terms = [term[:, m : m + n] for term in exponents(layout, cost, duals)]
    top = functools.reduce(jnp.maximum, terms)
    weights = [jnp.exp(term - top) for term in terms]
    whole = total(weights)
    mean = total(c * v for c, v in zip(cost, weights, strict=True)) / whole
    spread = total((c - mean) ** 2 * v for c, v in zip(cost, weights, strict=True)) / whole
    return jnp.sum(problem.x * mean), jnp.sum(problem.x * spread)


def shortfall(problem: Problem, beta: Array) -> Array:
    """w - z for the z <= u that minimizes lam/2 |w - z|^2 + `<beta, z>`."""
    return jnp.maximum(beta / problem.lam, problem.step - problem.room)


def value(layout: Layout, problem: Problem, duals: Duals, logs: Array) -> tuple[Array, Array]:
    """D, less a constant, and the sum of its terms' magnitudes, which scales its rounding."""
    m, n = layout.margin, layout.length
    short = shortfall(problem, duals.beta)
    gains = problem.lam / 2 * short**2 + duals.beta * (problem.step - short)
    losses = problem.x * logs[:, m : m + n]
    fee = duals.psi * problem.radius
    scale = jnp.sum(jnp.abs(gains)) + jnp.sum(losses) + fee
    return jnp.sum(gains) - jnp.sum(losses) - fee, scale
