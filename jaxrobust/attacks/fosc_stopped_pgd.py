"""PGD that every example leaves at its own time: the attacks of Dynamic and Curriculum training."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import checks, losses
from jaxrobust.attacks import starts
from jaxrobust.attacks.ascend import ascend, judge, objective
from jaxrobust.attacks.first_order import Start, shared, stacked
from jaxrobust.attacks.fosc import fosc
from jaxrobust.attacks.pgd import steepest
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


class FOSCStoppedPGD(Attack):
    """What `fosc_stopped_pgd` makes; see there."""

    threat: ThreatModel
    step_size: Scalar = length()
    steps: Scalar
    threshold: Scalar
    mixed: bool = static()
    start: Start = static()
    loss: Loss = static()
    clean: bool = static(default=True)

    def __call__(self, key: Key, f: LogitsFn, x: Array, y: Array) -> AttackResult:
        start_key, count_key = jax.random.split(key)
        steps = shared(self.steps, jnp.int32)
        if self.mixed:
            steps = jax.random.randint(count_key, (), 0, steps + 1)
        threshold = shared(self.threshold, x.dtype)
        first = self.start(start_key, self.threat, x)

        def converged(z: Array, g: Array) -> Array:
            # The start is scored after its first step, as in the released code.
            return (fosc(self.threat, x, z, g) <= threshold) & jnp.any(z != first)

        optimizer = steepest(key, self.threat, step_size=jnp.asarray(self.step_size, x.dtype))
        path = ascend(
            objective(f, self.loss, y),
            self.threat,
            x,
            first,
            optimizer,
            steps=steps,
            stop=converged,
        )
        count = path.gradients
        costs = {"forwards": count, "backwards": count}
        return judge(f, self.threat, x, y, path.last, self.loss, clean=self.clean, **costs)


def fosc_stopped_pgd(
    threat: ThreatModel,
    *,
    step_size: Scalar,
    steps: Scalar,
    threshold: Scalar = -1.0,
    mixed: bool = False,
    start: Start = starts.uniform,
    loss: Loss = losses.cross_entropy,
) -> FOSCStoppedPGD:
    """PGD in which an example rests once its FOSC is at most `threshold`, after one step at least.

    Returns the last iterate, or the clean example as `first_order` says. The attack of Dynamic
    adversarial training (FOSC, Wang et al. 2019, Algorithm 1, whose printed indicator is inverted:
    here an example moves while c > threshold), with c measured from the clean example. A negative
    threshold is never met: plain PGD.

    Args:
      threat, start, loss: as `pgd`.
      step_size: in the threat's norm.
      steps: at most so many; a leaf, so that a curriculum may change it without compiling anew.
      threshold: on the scale of the per-example loss (paper: from .5 down to 0).
      mixed: draw each example's number of steps uniformly from 0 to `steps`.

    Raises:
      ValueError: steps that are no whole number of at least 0, a negative or non-finite step size,
        or a threshold that is NaN.
    """
    checks.nonnegative("step_size", step_size)
    if checks.is_concrete(steps):
        checks.at_least("steps", steps.item() if isinstance(steps, jax.Array) else steps, 0)
    if checks.is_concrete(threshold) and np.isnan(np.asarray(threshold)).any():
        raise ValueError(f"threshold must be a number, got {threshold}; below 0 none converges")
    numbers = {"step_size": step_size, "steps": steps, "threshold": threshold}
    return FOSCStoppedPGD(
        threat=threat, **stacked(numbers, threat), mixed=mixed, start=start, loss=loss, clean=True
    )
