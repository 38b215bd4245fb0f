"""Attacks whose radius grows until the model is fooled."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import checks, losses
from jaxrobust.attacks import starts
from jaxrobust.attacks.ascend import judge, objective
from jaxrobust.attacks.first_order import Start, stacked
from jaxrobust.threats.warm import opening, resume
from jaxrobust.types import (
    Array,
    Attack,
    AttackResult,
    Key,
    LogitsFn,
    Loss,
    Scalar,
    ThreatModel,
    length,
    static,
)


def _at(threat: Any, radius: Array) -> ThreatModel:
    return dataclasses.replace(threat, radius=radius)


class GrowingRadius(Attack):
    """What `growing` makes; see there."""

    threat: ThreatModel
    step: ThreatModel
    step_size: Scalar = length()
    factor: Scalar
    largest: Scalar
    steps: int = static()
    every: int = static()
    start: Start = static()
    loss: Loss = static()
    clean: bool = static(default=True)

    def __call__(self, key: Key, f: LogitsFn, x: Array, y: Array) -> AttackResult:
        numbers = (self.threat.radius, self.factor, self.largest, self.step_size)
        radius, factor, largest, step_size = (jnp.asarray(n, x.dtype) for n in numbers)
        gradient = jax.value_and_grad(objective(f, self.loss, y), has_aux=True)

        def in_force(k: Array) -> Array:
            return jnp.minimum(radius * factor ** (k // self.every).astype(x.dtype), largest)

        def advance(carry: tuple) -> tuple:
            z, state, k, _ = carry
            (_, fools), g = gradient(z)
            g = jnp.where(jnp.isfinite(g), g, jnp.zeros_like(g))
            moved, later = resume(
                _at(self.threat, in_force(k)), x, z + step_size * self.step.steepest(g, z), state
            )
            z, state = jax.tree.map(lambda a, b: jnp.where(fools, a, b), (z, state), (moved, later))
            return z, state, k + 1, fools

        def proceed(carry: tuple) -> Array:
            _, _, k, fools = carry
            return (k < self.steps) & ~fools

        z = self.start(key, self.threat, x)
        carry = (z, opening(self.threat, x), jnp.int32(0), jnp.zeros((), bool))
        z, _, count, _ = jax.lax.while_loop(proceed, advance, carry)
        final = _at(self.threat, in_force(jnp.int32(self.steps - 1)))
        return judge(
            f, final, x, y, z, self.loss, forwards=count, backwards=count, clean=self.clean
        )


def growing(
    threat: ThreatModel,
    *,
    step: ThreatModel,
    step_size: Scalar,
    steps: int,
    factor: Scalar,
    every: int,
    largest: Scalar = float("inf"),
    start: Start = starts.clean,
    loss: Loss = losses.cross_entropy,
) -> GrowingRadius:
    """Projected ascent whose radius grows by `factor` every `every` steps until the model errs.

    z <- P_k(z + step_size * steepest direction of `step`), k-th radius threat.radius *
    factor^floor(k / every), at most `largest`. An example rests at its first misclassified iterate,
    so that its `norm` is about the smallest radius that breaks it and one run gives the curve of
    accuracy against radius (`evaluation.curve_of_norms`); `inside` and `success` refer to the last
    radius. Of most use as a training attack with a range of budgets: easy examples see small
    perturbations and hard ones large. Wong's thesis, sections 5.2.1 and 5.2.3.

    Args:
      threat: the set at its first radius.
      step: whose steepest direction is followed, for example `Linf(1.0)`; its radius is not used.
      step_size: in the norm of `step`.
      steps: at most so many, per example.
      factor: at least 1.
      every: steps at each radius.
      largest: a bound on the radius.
      start, loss: see `first_order`.

    Raises:
      ValueError: steps or every < 1, a factor below 1, a negative number.
    """
    checks.at_least("steps", steps, 1)
    checks.at_least("every", every, 1)
    checks.nonnegative("step_size", step_size)
    checks.nonnegative("factor", factor)
    if checks.is_concrete(factor) and np.min(np.asarray(factor)) < 1:
        raise ValueError(f"factor must be at least 1, got {factor}: the radius grows")
    numbers = {"step_size": step_size, "factor": factor, "largest": largest}
    return GrowingRadius(
        threat=threat,
        step=step,
        **stacked(numbers, threat),
        steps=steps,
        every=every,
        start=start,
        loss=loss,
        clean=True,
    )
