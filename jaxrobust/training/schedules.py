"""Learning-rate schedules by name: step -> rate, over a run of known length."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import optax

from jaxrobust import checks


def constant(peak: float, steps: int) -> optax.Schedule:
    """The peak rate throughout."""
    del steps
    return optax.constant_schedule(peak)


def piecewise(
    peak: float, steps: int, *, at: Sequence[float] = (0.5, 0.75), factor: float = 0.1
) -> optax.Schedule:
    """Multiplied by `factor` at each fraction of the run in `at`.

    (.5, .75) is robust overfitting's; (75/120, 90/120, 100/120) DALE's and MART's.
    """
    for fraction in at:
        checks.fraction("at", fraction)
    checks.nonnegative("factor", factor)
    # In a short run two fractions may fall on one step, which then takes both factors.
    falls = Counter(round(f * steps) for f in at)
    return optax.piecewise_constant_schedule(peak, {s: factor**n for s, n in falls.items()})


def linear(
    peak: float, steps: int, *, start: float = 0.0, stop: float = 1.0, end: float = 0.0
) -> optax.Schedule:
    """Straight from the peak to `end` times it, between the fractions `start` and `stop`.

    Flat before and after. (.5, .75, .1) is robust overfitting's (Wong's thesis, section 4.3.2).
    """
    checks.fraction("start", start)
    checks.fraction("stop", stop)
    checks.nonnegative("end", end)
    if start > stop:
        raise ValueError(f"linear falls from start to stop, got start={start} after stop={stop}")
    first, last = round(start * steps), round(stop * steps)
    return optax.linear_schedule(peak, end * peak, max(last - first, 1), first)


def staircase(peak: float, steps: int, *, stairs: int = 10) -> optax.Schedule:
    """Down by the same amount after each of `stairs` equal parts; the last is at peak / stairs.

    Robust overfitting's multiple decay: .1 to .01 in tens (Wong's thesis, section 4.3.2).
    """
    checks.at_least("stairs", stairs, 1)

    def rate(count: Any) -> Any:
        done = jnp.minimum(count * stairs // steps, stairs - 1.0)
        return peak * (1.0 - done / stairs)

    return rate


def cosine(peak: float, steps: int) -> optax.Schedule:
    """From the peak down to 0 along half a cosine."""
    return optax.cosine_decay_schedule(peak, steps)


def cyclic(peak: float, steps: int, *, top: float = 0.4) -> optax.Schedule:
    """A triangle: up from 0 to the peak at the fraction `top` of the run, and down to 0."""
    checks.fraction("top", top)
    rise = max(round(top * steps), 1)
    up = optax.linear_schedule(0.0, peak, rise)
    down = optax.linear_schedule(peak, 0.0, max(steps - rise, 1))
    return optax.join_schedules([up, down], [rise])


def multi_step(
    peak: float, steps: int, *, start: float = 0.1, factor: float = 0.5, every: float = 0.1
) -> optax.Schedule:
    """Multiplied by `factor` at the fraction `start` of the run and each `every` after it."""
    checks.fraction("start", start)
    checks.positive("every", every)
    count = int((1.0 - start) / every + 1e-9) + 1
    return piecewise(peak, steps, at=[start + i * every for i in range(count)], factor=factor)


def piecewise_linear(
    peak: float,
    steps: int,
    *,
    at: Sequence[float] = (0.4, 0.8, 1.0),
    levels: Sequence[float] = (1.0, 0.05, 0.0),
) -> optax.Schedule:
    """From 0 by straight lines to `levels` of the peak at the fractions `at` of the run.

    By default as Maini et al. 2020 train against a union of norms on CIFAR-10: up over 20 of 50
    epochs, down to a twentieth over the next 20, to 0 over the last 10 (Wong's thesis, section
    5.4.1). The last level stays.

    Raises:
      ValueError: fractions that do not increase from above 0 to at most 1, or as many levels.
    """
    rising = all(a < b for a, b in zip((0.0, *at), at, strict=False))
    if not at or len(at) != len(levels) or not rising or at[-1] > 1:
        raise ValueError(
            f"piecewise_linear needs increasing fractions `at` in (0, 1] and a level for each, "
            f"got at={tuple(at)}, levels={tuple(levels)}"
        )
    times = jnp.asarray((0.0, *at), jnp.float32) * steps
    rates = jnp.asarray((0.0, *levels), jnp.float32) * peak
    return lambda count: jnp.interp(count, times, rates)


SCHEDULES: Mapping[str, Callable[..., optax.Schedule]] = {
    "constant": constant,
    "piecewise": piecewise,
    "linear": linear,
    "staircase": staircase,
    "cosine": cosine,
    "cyclic": cyclic,
    "multi_step": multi_step,
    "piecewise_linear": piecewise_linear,
}


def schedule(
    name: str, peak: float, steps: int, options: Mapping[str, Any] | None = None
) -> optax.Schedule:
    """The named schedule of a run of `steps` steps with the given peak rate.

    Args:
      name: a name in `SCHEDULES`.
      peak: the peak rate, at least 0.
      steps: the steps of the whole run, at least 1.
      options: further arguments of `SCHEDULES[name]` by name, such as `{"at": (0.5, 0.75)}`.

    Returns:
      An Optax schedule: a function of the step, counted from 0, that returns the rate.

    Raises:
      ValueError: an unknown name, a negative rate, fewer than one step, an option out of its range,
        such as a fraction of the run above 1.
      TypeError: an option that the schedule does not have.
    """
    checks.choice("schedule", name, SCHEDULES)
    checks.nonnegative("peak", peak)
    checks.at_least("steps", steps, 1)
    options = dict(options or {})
    checks.options("schedule", name, options, SCHEDULES[name], given=("peak", "steps"))
    rate = SCHEDULES[name](peak, steps, **options)
    # Optax mixes the integer count with floats, which strict dtype promotion forbids.
    return lambda count: rate(jnp.asarray(count, jnp.float32))
