"""Gradient alignment: a penalty on how the loss's gradient turns within the ball."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrobust import attacks, checks, losses
from jaxrobust.defenses.base import (
    Defense,
    LossOutput,
    TrainContext,
    check_attack_mode,
    over_examples,
)
from jaxrobust.threats import L2
from jaxrobust.types import Array, Batch, Key, LogitsFn, Model, Scalar, ThreatModel, Variables


def cosine(a: Array, b: Array) -> Array:
    """The cosine of the angle between two arrays; 1 with derivative 0 where one of them is 0.

    Neither huge nor tiny entries overflow or vanish.
    """
    unit = L2(1.0).steepest
    defined = jnp.any(a != 0) & jnp.any(b != 0)
    return jnp.where(defined, jnp.sum(unit(a, a) * unit(b, b)), 1)


def grad_align(
    defense: Defense, threat: ThreatModel, *, weight: Scalar, attack_mode: str = "eval"
) -> Defense:
    """Adds weight * mean(1 - cos(g(x), g(x + eta))) to a defense's loss, g the gradient of CE in x.

    eta is uniform in the ball, x + eta not clipped to the pixel box; the cosine is that of each
    example. Where it stays near 1 the loss is nearly linear within the ball, and a single step such
    as `defenses.fgsm`'s is a strong attack: it keeps from catastrophic overfitting at two to three
    times the cost. Andriushchenko and Flammarion 2020 (arXiv:2007.02617), section 5. Metric:
    `alignment`, the mean cosine. Twice differentiates the model, once in x and once in its
    parameters, through both gradients.

    Other than in the released code, an example of zero gradient counts as aligned, where there it
    leaves the mean; g(x) is that at x itself, and trained through, where for FGSM there it is a
    constant at the step's start; running statistics are renewed by the wrapped defense alone.

    Args:
      defense: any, constrained or not; its state and its violation stay as they are.
      threat: the ball that eta is drawn from (paper: that of the attack).
      weight: of the penalty (released code: .2 for CIFAR-10 at 8/255, up to 2 for larger radii).
      attack_mode: batch statistics and dropout in the gradients, see `adversarial_examples`; the
        paper has "train". Both gradients share one dropout mask.

    Raises:
      ValueError: a weight that is negative or not finite, or an unknown mode.
    """
    checks.nonnegative("weight", weight)
    check_attack_mode(attack_mode)

    def alignment(key: Key, f: LogitsFn, x: Array, y: Array) -> Array:
        gradient = jax.grad(lambda z: losses.cross_entropy(f(z), y))
        return cosine(gradient(x), gradient(attacks.unclipped(key, threat, x)))

    def loss(
        key: Key, model: Model, variables: Variables, batch: Batch, context: TrainContext
    ) -> tuple[Array, LossOutput]:
        own_key, noise_key = jax.random.split(key)
        value, aux = defense.loss(own_key, model, variables, batch, context)
        cosines = over_examples(
            noise_key, alignment, model, variables, batch, context, attack_mode=attack_mode
        )
        mean = jnp.mean(cosines)
        penalty = jnp.asarray(weight, mean.dtype) * (1 - mean)
        return value + penalty, aux._replace(metrics={**aux.metrics, "alignment": mean})

    return defense._replace(loss=loss)
