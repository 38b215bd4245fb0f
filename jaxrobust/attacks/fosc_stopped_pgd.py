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
    make_attack,
)


def _run(
    key: Key,
    f: LogitsFn,
    x: Array,
    y: Array,
    *,
    threat: ThreatModel,
    step_size: Scalar,
    steps: Scalar,
    threshold: Scalar,
    mixed: bool,
    start: Start,
    loss: Loss,
    clean: bool,
) -> AttackResult:
    start_key, count_key = jax.random.split(key)
    steps = shared(steps, jnp.int32)
    if mixed:
        steps = jax.random.randint(count_key, (), 0, steps + 1)
    threshold = shared(threshold, x.dtype)
    first = start(start_key, threat, x)

    def converged(z: Array, g: Array) -> Array:
        # The start is scored after its first step, as in the released code.
        return (fosc(threat, x, z, g) <= threshold) & jnp.any(z != first)

    optimizer = steepest(key, threat, step_size=jnp.asarray(step_size, x.dtype))
    path = ascend(objective(f, loss, y), threat, x, first, optimizer, steps=steps, stop=converged)
    count = path.gradients
    costs = {"forwards": count, "backwards": count}
    return judge(f, threat, x, y, path.last, loss, clean=clean, **costs)


def fosc_stopped_pgd(
    threat: ThreatModel,
    *,
    step_size: Scalar,
    steps: Scalar,
    threshold: Scalar = -1.0,
    mixed: bool = False,
    start: Start = starts.uniform,
    loss: Loss = losses.cross_entropy,
) -> Attack:
    """PGD in which an example rests once its FOSC is at most `threshold`, after one step at least.

    Returns the last iterate, or the clean example as `first_order` says. The attack of Dynamic
    adversarial training (FOSC, Wang et al. 2019, Algorithm 1, whose printed indicator is inverted:
    here an example moves while c > threshold), with c measured from the clean example. A negative
    threshold is never met: plain PGD.

    Args:
      threat, start, loss: as `pgd`. step_size: in the threat's norm.
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
    leaves = {"threat": threat, **stacked(numbers, threat)}
    return make_attack(
        _run, leaves, mixed=mixed, start=start, loss=loss, clean=True, scales=("step_size",)
    )
