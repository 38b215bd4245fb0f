"""N-FGSM: one step from stronger noise, without a projection onto the ball."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from jaxrobust import checks, losses
from jaxrobust.attacks import starts
from jaxrobust.attacks.ascend import ascend, judge, objective
from jaxrobust.attacks.first_order import stacked
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


class NFGSM(Attack):
    """What `n_fgsm` makes; see there."""

    threat: ThreatModel
    k: Scalar
    step_size: Scalar = length()
    loss: Loss = static()
    clean: bool = static(default=True)

    def __call__(self, key: Key, f: LogitsFn, x: Array, y: Array) -> AttackResult:
        start_key, step_key = jax.random.split(key)
        numbers = (self.threat.radius, self.k, self.step_size)
        radius, k, step_size = (jnp.asarray(v, x.dtype) for v in numbers)
        noise = dataclasses.replace(self.threat, radius=k * radius)
        # By the triangle inequality a projection onto this set clips to the pixel box alone.
        reach = dataclasses.replace(self.threat, radius=k * radius + step_size)
        path = ascend(
            objective(f, self.loss, y),
            reach,
            x,
            starts.uniform(start_key, noise, x),
            steepest(step_key, self.threat, step_size=step_size),
            steps=1,
        )
        return judge(
            f, self.threat, x, y, path.last, self.loss, forwards=1, backwards=1, clean=self.clean
        )


def n_fgsm(
    threat: ThreatModel,
    *,
    k: Scalar = 2.0,
    step_size: Scalar | None = None,
    loss: Loss = losses.cross_entropy,
) -> NFGSM:
    """N-FGSM: z = box(s + step_size * steepest direction at s), s uniform in k times the ball.

    An attack for training, against the catastrophic overfitting of single steps: the noise is an
    augmentation, and nothing projects onto the ball, so that z is up to k radius + step_size away
    from x. It is judged on `threat` itself, where it is usually not `inside` and then no success:
    to evaluate a model, take another attack. For any norm whose set has a radius and a pixel box.
    de Jorge et al. 2022 (arXiv:2202.01181) and its released code; with k = 0 FGSM without its
    projection.

    Args:
      threat: the ball that is trained for.
      k: radius of the noise, in radii (paper: 2).
      step_size: length of the step in the threat's norm (default, as in the paper: the radius).
      loss: what to climb, from logits and label.

    Raises:
      ValueError: k or a step size that is negative or not finite.
    """
    step_size = threat.radius if step_size is None else step_size
    checks.nonnegative("k", k)
    checks.nonnegative("step_size", step_size)
    numbers = stacked({"k": k, "step_size": step_size}, threat)
    return NFGSM(threat=threat, **numbers, loss=loss, clean=True)
