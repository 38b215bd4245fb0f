"""The Lagrange multiplier of a constrained training problem, as state with a pure update."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxrobust import checks
from jaxrobust.types import Array, Scalar


class MultiplierState(NamedTuple):
    """The multiplier(s) and the violations gathered since they last moved.

    Shapes are those of the violation: a scalar for one constraint, a vector for several.
    """

    value: Array
    total: Array
    count: Array


class Multiplier(NamedTuple):
    """Dual ascent as two pure functions, in the manner of an Optax optimizer.

    `init() -> MultiplierState`; `update(state, violation) -> MultiplierState`, where the
    violation is g(theta) of the constraint g <= 0, already averaged over devices.
    """

    init: Callable[[], MultiplierState]
    update: Callable[[MultiplierState, Array], MultiplierState]


def dual_ascent(
    step_size: Scalar,
    *,
    initial: Scalar = 0.0,
    period: int = 1,
    maximum: Scalar = jnp.inf,
) -> Multiplier:
    """Projected dual ascent: nu <- min(maximum, max(0, nu + step_size * mean violation)).

    DALE, Algorithm 1 line 10: nu is the dual variable of min_theta l(theta) subject to
    g(theta) <= 0, whose Lagrangian l + nu g training minimizes.

    Args:
      step_size: eta_d >= 0; 0 keeps nu at `initial` (DALE, Table 2).
      initial: nu_0 >= 0 (the paper starts at 0, the released code at 1; a warm start goes here).
        An array carries one multiplier per constraint.
      period: updates between moves. 1 moves after every batch (the released code); the number of
        steps per epoch moves once an epoch on the epoch's mean violation (the paper).
      maximum: an upper cap on nu.

    The state is kept in JAX's default float dtype, whatever the violation's. A NaN violation
    makes nu NaN: a lost constraint must not pass silently. Not differentiable where nu is clipped.

    Raises:
      ValueError: step_size or initial negative or not finite, initial above the cap, period < 1;
        in `update`, a violation of another shape than `initial`.
    """
    checks.nonnegative("step_size", step_size)
    checks.nonnegative("initial", initial)
    checks.at_least("period", period, 1)
    concrete = checks.is_concrete(maximum) and checks.is_concrete(initial)
    if concrete and not np.all(np.asarray(initial) <= np.asarray(maximum)):
        raise ValueError(f"initial multiplier {initial} is above the cap maximum={maximum}")

    def init() -> MultiplierState:
        value = jnp.asarray(initial, float)
        return MultiplierState(value, jnp.zeros_like(value), jnp.zeros((), jnp.int32))

    def update(state: MultiplierState, violation: Array) -> MultiplierState:
        if jnp.shape(violation) != state.value.shape:
            raise ValueError(
                f"a violation of shape {jnp.shape(violation)} cannot move multipliers of shape "
                f"{state.value.shape}; pass initial=jnp.zeros({jnp.shape(violation)})"
            )
        dtype = state.value.dtype
        total, count = state.total + jnp.asarray(violation, dtype), state.count + 1
        mean = total / count.astype(dtype)
        moved = state.value + jnp.asarray(step_size, dtype) * mean
        moved = jnp.clip(moved, 0.0, jnp.asarray(maximum, dtype))
        due = count >= period
        return MultiplierState(
            value=jnp.where(due, moved, state.value),
            total=jnp.where(due, jnp.zeros_like(total), total),
            count=jnp.where(due, jnp.zeros_like(count), count),
        )

    return Multiplier(init, update)
