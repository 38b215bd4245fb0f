"""The Lagrange multiplier of a constrained training problem, as state with a pure update."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import checks
from jaxrobust.types import Array, PyTree, Scalar

StepSize = Scalar | Callable[[Array], Array]
"""A number, or a schedule: the number of moves so far -> the size of the next, as in Optax."""


class MultiplierState(NamedTuple):
    """The multiplier(s) and the violations gathered since they last moved.

    Shapes are those of the violation: a scalar for one constraint, a vector for several.
    """

    value: Array
    total: Array
    """The sum of the violations since the last move."""
    count: Array  # pyright: ignore[reportIncompatibleMethodOverride]
    """int32: how many they are."""
    moves: Array
    """int32: how often the multiplier has moved."""
    memory: PyTree = ()
    """What the rule remembers from one move to the next; nothing for dual ascent."""


class Multiplier(NamedTuple):
    """A rule that moves the multiplier, as two pure functions, in the manner of an Optax optimizer.

    `init() -> MultiplierState`; `update(state, violation) -> MultiplierState`, where the
    violation is g(theta) of the constraint g <= 0, already averaged over devices.
    """

    init: Callable[[], MultiplierState]
    update: Callable[[MultiplierState, Array], MultiplierState]


class Smoothed(NamedTuple):
    """What the PI controller remembers."""

    average: Array
    """The moving average of the violations."""
    started: Array
    """bool: whether there has been one."""


def dual_ascent(
    step_size: StepSize,
    *,
    initial: Scalar = 0.0,
    period: int = 1,
    maximum: Scalar = jnp.inf,
) -> Multiplier:
    """Projected dual ascent: nu <- min(maximum, max(0, nu + step_size * mean violation)).

    DALE, Algorithm 1 line 10: nu is the dual variable of min_theta l(theta) subject to
    g(theta) <= 0, whose Lagrangian l + nu g training minimizes. nu ends at the sum of all
    violations times the step size, those of the untrained network included: a short run may not
    unwind them. See `pi`.

    Args:
      step_size: eta_d >= 0; 0 keeps nu at `initial` (DALE, Table 2). A schedule, such as one of
        Optax, is called with the number of moves so far.
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

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxrobust import lagrangian
      >>> rule = lagrangian.dual_ascent(0.5)
      >>> float(rule.update(rule.init(), jnp.float32(0.2)).value)
      0.1...
    """
    return _projected(
        step_size,
        lambda mean, memory: (mean, memory),
        lambda value: (),
        initial=initial,
        period=period,
        maximum=maximum,
    )


def pi(
    step_size: StepSize,
    *,
    integral: Scalar = 1.0,
    proportional: Scalar,
    ema: Scalar = 0.9,
    initial: Scalar = 0.0,
    period: int = 1,
    maximum: Scalar = jnp.inf,
) -> Multiplier:
    """The PI controller of a multiplier (nuPI): dual ascent that does not wind up.

    nu <- min(maximum, max(0, nu + step_size (integral e + proportional (s - s_before)))), where e
    is the mean violation and s <- ema s_before + (1 - ema) e its moving average, which starts at
    the first violation, so that the first move is dual ascent's. The proportional part takes back
    what a violation that begins large and settles has put in, and damps the oscillation of dual
    ascent; at rest both have the same fixed points. Sohrabi et al. 2024, "On PI controllers for
    updating Lagrange multipliers in constrained optimization", Algorithm 1.

    Its limit: where the multiplier that is needed is smaller than step_size * proportional * the
    first violation, nu stays at 0 until the violation has settled, and the integral alone must
    then raise it in the steps that are left. Choose `integral` for the length of the run.

    Args:
      step_size: eta_d >= 0, common to both parts; or a schedule, as in `dual_ascent`. One that
        grows with progress follows little of what a high learning rate does to the loss.
      integral: the gain Ki >= 0.
      proportional: the gain Kp >= 0; 0 with Ki = 1 is `dual_ascent`, bit for bit.
      ema: the decay in [0, 1) of the moving average over moves.
      initial, period, maximum: as in `dual_ascent`, and so are dtype, NaN and differentiability.

    Raises:
      ValueError: step_size, a gain or initial negative or not finite, ema outside [0, 1), initial
        above the cap, period < 1; in `update`, a violation of another shape than `initial`.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxrobust import lagrangian
      >>> rule = lagrangian.pi(0.1, proportional=5.0)
      >>> state = rule.init()
      >>> for violation in (1.0, 0.5, 0.2, -0.1):
      ...     state = rule.update(state, jnp.float32(violation))
      >>> round(float(state.value), 3)  # dual ascent would be at .16
      0.049
    """
    checks.nonnegative("integral", integral)
    checks.nonnegative("proportional", proportional)
    checks.fraction("ema", ema)
    if checks.is_concrete(ema) and np.any(np.asarray(ema) == 1):
        raise ValueError("ema=1 would never move the average; use a value below 1")

    def direct(mean: Array, memory: Smoothed) -> tuple[Array, Smoothed]:
        ki, kp, share = (jnp.asarray(v, mean.dtype) for v in (integral, proportional, ema))
        before = jnp.where(memory.started, memory.average, mean)
        average = share * before + (1 - share) * mean
        return ki * mean + kp * (average - before), Smoothed(average, jnp.ones((), bool))

    def remember(value: Array) -> Smoothed:
        return Smoothed(jnp.zeros_like(value), jnp.zeros((), bool))

    return _projected(step_size, direct, remember, initial=initial, period=period, maximum=maximum)


def for_run(
    steps: int,
    *,
    level: Scalar,
    integral: Scalar = 32.0,
    proportional: Scalar = 2.0,
    window: Scalar = 0.1,
    growth: Scalar = 3.0,
    initial: Scalar = 0.0,
    period: int = 1,
    maximum: Scalar = jnp.inf,
) -> Multiplier:
    """`pi` for loss <= level, with gains that mean the same for runs of any length and any level.

    It looks at the violation in units of the level: a loss far below 1 answers a change of the
    multiplier by about a constant share of itself. Its strength grows over the run, see `growing`:
    meant for runs in which the learning rate falls to 0 at the end, where the defaults end with
    complementary slackness on the digits and on MNIST (docs/results.md). Not in DALE's paper.

    Args:
      steps: the number of training steps in the whole run, at least `period`.
      level: the most that the constrained loss may be, above 0; DALE's rho.
      integral: what a violation as large as the level throughout the run would add to nu at full
        strength.
      proportional: what a fall of the violation by the level takes back from nu at full strength.
      window: the share of the run over which the violation is averaged for the proportional part.
      growth: the power of the share of training by which the strength grows; 0 keeps it constant.
      initial, period, maximum: as in `dual_ascent`.

    Raises:
      ValueError: steps below the period, level or integral not above 0, a window outside [0, 1],
        and what `pi` and `growing` raise.
    """
    checks.at_least("period", period, 1)
    checks.at_least("steps", steps, period)
    checks.positive("level", level)
    checks.positive("integral", integral)
    checks.fraction("window", window)
    moves = steps // period
    return pi(
        growing(integral / (moves * level), moves=moves, power=growth),
        proportional=proportional * moves / integral,
        ema=1 - 1 / jnp.maximum(1.0, window * moves),
        initial=initial,
        period=period,
        maximum=maximum,
    )


def growing(step_size: Scalar, *, moves: int, power: Scalar = 2.0) -> Callable[[Array], Array]:
    """The schedule step_size * min(1, n / moves)^power of the n-th move, for runs of known length.

    In a short run with a decaying learning rate the constrained loss stays above its level while
    the rate is high, whatever the multiplier, and falls by itself at the end. A multiplier that
    answers at once costs the objective all along; one that grows in strength answers to what is
    left. Not in DALE's paper, whose runs are long.

    Args:
      step_size: the full size, at least 0.
      moves: the number of moves in the whole run, after which the step keeps its full size: the
        steps of training divided by the multiplier's `period`.
      power: the exponent of the growth; 0 is a constant step.

    Returns:
      The schedule, for the `step_size` of `dual_ascent` or `pi`: a function of n, the int32 number
      of moves made before, to the size of the next one, a float scalar. The first move has n = 0,
      and so the size 0 unless `power` is 0.

    Raises:
      ValueError: moves < 1, a number negative or not finite.
    """
    checks.nonnegative("step_size", step_size)
    checks.nonnegative("power", power)
    checks.at_least("moves", moves, 1)

    def schedule(count: Array) -> Array:
        share = jnp.minimum(1.0, count / moves)
        return jnp.asarray(step_size, share.dtype) * share ** jnp.asarray(power, share.dtype)

    return schedule


def _projected(
    step_size: StepSize,
    direct: Callable[[Array, PyTree], tuple[Array, PyTree]],
    remember: Callable[[Array], PyTree],
    *,
    initial: Scalar,
    period: int,
    maximum: Scalar,
) -> Multiplier:
    """A multiplier that moves every `period` updates and stays within [0, maximum].

    Args:
      direct: (mean violation, memory) -> (direction of the move, memory).
      remember: nu_0 -> the first memory.
    """
    if not callable(step_size):
        checks.nonnegative("step_size", step_size)
    checks.nonnegative("initial", initial)
    checks.at_least("period", period, 1)
    concrete = checks.is_concrete(maximum) and checks.is_concrete(initial)
    if concrete and not np.all(np.asarray(initial) <= np.asarray(maximum)):
        raise ValueError(f"initial multiplier {initial} is above the cap maximum={maximum}")

    def init() -> MultiplierState:
        value = jnp.asarray(initial, float)
        zero = jnp.zeros_like(value)
        none = jnp.zeros((), jnp.int32)
        return MultiplierState(value, zero, none, none, remember(value))

    def update(state: MultiplierState, violation: Array) -> MultiplierState:
        if jnp.shape(violation) != state.value.shape:
            raise ValueError(
                f"a violation of shape {jnp.shape(violation)} cannot move multipliers of shape "
                f"{state.value.shape}; pass initial=jnp.zeros({jnp.shape(violation)})"
            )
        dtype = state.value.dtype
        total, count = state.total + jnp.asarray(violation, dtype), state.count + 1
        direction, memory = direct(total / count.astype(dtype), state.memory)
        size = step_size(state.moves) if callable(step_size) else step_size
        raised = state.value + jnp.asarray(size, dtype) * direction
        moved = MultiplierState(
            value=jnp.clip(raised, 0.0, jnp.asarray(maximum, dtype)),
            total=jnp.zeros_like(total),
            count=jnp.zeros_like(count),
            moves=state.moves + 1,
            memory=memory,
        )
        waiting = state._replace(total=total, count=count)
        due = count >= period
        return jax.tree.map(lambda now, later: jnp.where(due, now, later), moved, waiting)

    return Multiplier(init, update)
