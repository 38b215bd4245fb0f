"""The multiplier of the transport budget: the price at which a family of plans spends it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust.types import Array

_STEPS = 100


class BudgetMultiplier(NamedTuple):
    """The price psi, and how many evaluations it took."""

    psi: Array
    iterations: Array


def budget_multiplier(
    spent: Callable[[Array], tuple[Array, Array]],
    radius: Array,
    start: Array,
    skip: Array | bool = False,
) -> BudgetMultiplier:
    """The least psi >= 0 at which `spent(psi)` is the radius, to a few units of rounding.

    `spent` returns the transport cost, which falls in psi, and minus its derivative. Newton
    steps on log spent - log radius, nearly linear in psi, inside a bracket that is halved (or
    doubled while it has no upper end) where a step leaves it, and every fourth time. 0 where the
    budget is never exceeded. Where `skip` holds, `start`. Not differentiable.
    """
    rounding = 8 * jnp.finfo(radius.dtype).eps

    def unfinished(state: tuple) -> Array:
        low, high, _, done, count = state
        return ~done & (high > low) & (count < _STEPS)

    def refine(state: tuple) -> tuple:
        low, high, psi, _, count = state
        cost, slope = spent(psi)
        over = cost > radius
        low, high = jnp.where(over, psi, low), jnp.where(over, high, psi)
        done = (jnp.abs(cost - radius) <= rounding * radius) | (~over & (psi == 0))
        newton = psi + (jnp.log(cost) - jnp.log(radius)) * cost / slope
        middle = jnp.where(jnp.isinf(high), 2 * low + 1, low + (high - low) / 2)
        inside = (newton > low) & (newton < jnp.minimum(high, 8 * low + 8)) & (count % 4 != 3)
        # A step that wants below 0 asks whether the budget binds at all.
        away = jnp.where(inside, newton, jnp.where((newton <= 0) & (low == 0), 0, middle))
        done = done | (~inside & ((middle <= low) | (middle >= high)))
        return low, high, jnp.where(done, psi, away), done, count + 1

    zero = jnp.zeros_like(radius)
    state = (zero, zero + jnp.inf, start, jnp.asarray(skip), jnp.asarray(0, jnp.int32))
    _, _, psi, _, count = jax.lax.while_loop(unfinished, refine, state)
    return BudgetMultiplier(psi, count)


def resting_multiplier(cost: Array, radius: Array) -> Array:
    """The price at which a plan without any other motive, softmax(-psi C), spends the radius."""

    def spent(psi: Array) -> tuple[Array, Array]:
        share = jax.nn.softmax(-psi * cost)
        mean = jnp.sum(share * cost)
        return mean, jnp.sum(share * (cost - mean) ** 2)

    return budget_multiplier(spent, radius, jnp.ones_like(radius)).psi
