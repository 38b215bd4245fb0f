"""Adversarial training whose attack grows stronger: by convergence (FOSC), or by steps."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust import attacks, checks, losses
from jaxrobust.defenses.adversarial import on_points
from jaxrobust.defenses.base import Defense, TrainContext, check_ramp, over_devices
from jaxrobust.types import Array, Attack, Loss, Scalar, ThreatModel


def dynamic(
    threat: ThreatModel,
    *,
    step_size: Scalar,
    steps: int,
    largest: Scalar = 0.5,
    until: Scalar = 0.8,
    reweight: bool = False,
    ramp: Scalar = 0.0,
    start: attacks.Start = attacks.uniform,
    loss: Loss = losses.cross_entropy,
) -> Defense:
    """Minimizes the mean cross-entropy at points of convergence c_t, which improves over training.

    PGD moves an example while its FOSC exceeds c_t = largest * max(0, 1 - progress / until), where
    progress runs from 0 to 1 (the paper: by epochs). Dynamic adversarial training (Wang et al.
    2019, Algorithm 1, with the indicator the right way round; see `attacks.fosc_stopped_pgd`).

    Args:
      threat: where x' may lie.
      step_size, steps: of PGD (paper: a quarter of the radius, 10).
      largest: c_max, on the scale of the per-example loss (paper: .5).
      until: share of training after which c_t is 0 (paper: 40 of 50 epochs, 100 of 120).
      reweight: weigh examples by their own loss, as the released code does from its second epoch
        on; here the weights have mean 1 over the batch and hold throughout.
      ramp: see `adversarial_examples`. An open gate does not stand in for it: at a large radius,
        its start and first step can already hold training at the constant prediction.
      start, loss: see `attacks.fosc_stopped_pgd`.
    """
    checks.nonnegative("largest", largest)
    checks.positive("until", until)
    checks.at_least("steps", steps, 1)
    stopped = attacks.fosc_stopped_pgd(
        threat, step_size=step_size, steps=steps, start=start, loss=loss
    )
    check_ramp(ramp, stopped)

    def in_force(state: tuple, progress: Scalar) -> Attack:
        del state
        return stopped.replace(threshold=largest * jnp.maximum(0.0, 1.0 - progress / until))

    def weighted(logits: Array, y: Array, context: TrainContext) -> tuple[Array, dict[str, Array]]:
        each = jax.vmap(losses.cross_entropy)(logits, y)
        weight = jax.lax.stop_gradient(each)
        return jnp.mean(weight * each) / over_devices(jnp.mean(weight), context.axes), {}

    if not reweight:
        return on_points(in_force, ramp=ramp)
    return on_points(in_force, ramp=ramp, objective=weighted)


class Lesson(NamedTuple):
    """Where a curriculum stands."""

    steps: Array
    """int32: of the attack now."""
    accuracy: Array
    """Moving average of the adversarial accuracy at this length, in %, from 0."""
    best: Array
    """Its largest value at this length."""
    stalled: Array
    """int32: training steps since it was reached."""


def _next(
    lesson: Lesson, accuracy: Array, *, threshold: Scalar, patience: Scalar, most: int
) -> Lesson:
    """The lesson after a batch of this accuracy."""
    average = 0.9 * lesson.accuracy + 0.1 * accuracy
    rises = average > lesson.best
    stalled = jnp.where(rises, 0, lesson.stalled + 1)
    learned = (average >= threshold) | (stalled >= patience)
    harder = learned & (lesson.steps < most)
    same = Lesson(lesson.steps, average, jnp.maximum(average, lesson.best), stalled)
    return jax.tree.map(
        lambda new, old: jnp.where(harder, new, old), _lesson(lesson.steps + 1), same
    )


def _lesson(steps: Array) -> Lesson:
    zero = jnp.zeros((), jnp.float32)
    return Lesson(jnp.asarray(steps, jnp.int32), zero, zero, jnp.zeros((), jnp.int32))


def curriculum(
    threat: ThreatModel,
    *,
    step_size: Scalar,
    steps: int,
    threshold: Scalar = 90.0,
    patience: Scalar = 1000,
    mixed: bool = False,
    ramp: Scalar = 0.0,
    start: attacks.Start = attacks.uniform,
    loss: Loss = losses.cross_entropy,
) -> Defense:
    """Adversarial training with k-step PGD, k growing from 0 as the model learns.

    k rises by one when a moving average (decay .9) of the training accuracy against k steps reaches
    `threshold`, or has not improved for `patience` training steps. Curriculum adversarial training
    (Cai et al. 2018), as compared with in FOSC. Its state, `Lesson`, is part of the train state.

    Args:
      threat: where x' may lie.
      step_size: of PGD.
      steps: the largest k (paper: 40 on MNIST, 7).
      threshold: in %.
      patience: in training steps.
      mixed: attack every example with a number of steps drawn from 0 to k, against forgetting
        ("batch mixing", there by slices of the batch); the accuracy is then that on this mixture.
      ramp: see `adversarial_examples`.
      start, loss: see `attacks.fosc_stopped_pgd`.
    """
    checks.at_least("steps", steps, 1)
    checks.nonnegative("threshold", threshold)
    checks.nonnegative("patience", patience)
    limited = attacks.fosc_stopped_pgd(
        threat, step_size=step_size, steps=0, mixed=mixed, start=start, loss=loss
    )
    check_ramp(ramp, limited)
    rules = {"threshold": threshold, "patience": patience, "most": steps}
    return on_points(
        lambda lesson, progress: limited.replace(steps=lesson.steps),
        ramp=ramp,
        init=lambda: _lesson(jnp.int32(0)),
        learn=lambda lesson, accuracy: _next(lesson, accuracy, **rules),
    )
