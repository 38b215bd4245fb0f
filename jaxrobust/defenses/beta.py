"""BETA-AT and SBETA-AT: training on points that maximize the margin, not the training loss."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrobust import checks, losses
from jaxrobust.attacks.wrappers import at_targets
from jaxrobust.defenses.adversarial import adversarial
from jaxrobust.defenses.base import (
    Defense,
    LossOutput,
    TrainContext,
    accuracy,
    adversarial_examples,
    check_attack,
    check_attack_mode,
    check_ramp,
    forward,
    no_state,
)
from jaxrobust.types import (
    Array,
    Attack,
    AttackResult,
    Batch,
    Key,
    LogitsFn,
    Model,
    Scalar,
    Variables,
    static,
)


def beta(attack: Attack, *, attack_mode: str = "eval", ramp: Scalar = 0.0) -> Defense:
    """BETA-AT: minimizes the mean cross-entropy at the point of largest margin over all classes.

    The non-zero-sum game of Robey et al. 2023, Algorithm 2: the attacker climbs z_j - z_y for
    every wrong class j, the learner descends an upper bound of the error at the winner.

    Args:
      attack: `attacks.beta` (paper: step_size 2/255; 5, 10 or 20 steps).
      attack_mode, ramp: see `adversarial_examples`.
    """
    check_attack(attack, defense="beta", made_by="attacks.beta(threat, step_size=..., steps=...)")
    return adversarial(attack, attack_mode=attack_mode, ramp=ramp)


def wrong_classes(y: Array, num_classes: int) -> Array:
    """`[K - 1]`: every class but `y`, in cyclic order from y + 1."""
    steps = jnp.arange(1, num_classes, dtype=jnp.result_type(y))
    return (y + steps) % num_classes


class EveryTarget(Attack):
    """`attack` aimed at each wrong class: a result `[K - 1]`."""

    attack: Attack
    chunk: int | None = static()

    def __call__(self, key: Key, f: LogitsFn, x: Array, y: Array) -> AttackResult:
        classes = wrong_classes(y, f(x).shape[0])
        return at_targets(key, f, x, y, classes, attack=self.attack, chunk=self.chunk)


def sbeta(
    climb: Attack,
    *,
    mu: Scalar,
    stop_weights: bool = False,
    attack_mode: str = "eval",
    ramp: Scalar = 0.0,
    chunk: int | None = None,
) -> Defense:
    """SBETA-AT: minimizes the mean of sum_{j != y} w_j CE(f(x_j), y), w = softmax(mu M(x_j)).

    x_j maximizes M_j = z_j - z_y for the wrong class j: BETA-AT with its maximum over classes
    smoothed, which it approaches as mu grows. Robey et al. 2023, appendix C, eq. 34, Algorithm 3.
    Training statistics see all K - 1 points of an example, and memory grows with K.

    Args:
      climb: aimed at every wrong class in turn, whose margin becomes its loss:
        `attacks.optimizer_steps`, the inner attack of `attacks.beta`.
      mu: inverse temperature of the weights.
      stop_weights: take the weights as constants; by default gradients flow through them.
      attack_mode, ramp: see `adversarial_examples`.
      chunk: classes attacked side by side (default all).
    """
    made_by = "attacks.optimizer_steps(threat, step_size=..., steps=...)"
    check_attack(climb, defense="sbeta", made_by=made_by)
    checks.positive("mu", mu)
    check_attack_mode(attack_mode)
    attack = EveryTarget(attack=climb, chunk=chunk)
    check_ramp(ramp, attack)

    def smoothed(logits: Array, y: Array) -> Array:
        classes = wrong_classes(y, logits.shape[-1])
        margins = jax.vmap(losses.targeted_margin, in_axes=(0, None, 0))(logits, y, classes)
        weights = jax.nn.softmax(mu * margins)
        weights = jax.lax.stop_gradient(weights) if stop_weights else weights
        return weights @ jax.vmap(losses.cross_entropy, in_axes=(0, None))(logits, y)

    def worst(logits: Array, y: Array) -> Array:
        return logits[jnp.argmax(jax.vmap(losses.margin, in_axes=(0, None))(logits, y))]

    def loss(
        key: Key, model: Model, variables: Variables, batch: Batch, context: TrainContext
    ) -> tuple[Array, LossOutput]:
        attack_key, drop_key = jax.random.split(key)
        points = adversarial_examples(
            attack_key, attack, model, variables, batch, context, attack_mode=attack_mode, ramp=ramp
        )
        flat = points.reshape(-1, *batch.x.shape[1:])
        logits, variables = forward(drop_key, model, variables, flat, axes=context.axes)
        logits = logits.reshape(*points.shape[:2], -1)
        value = jnp.mean(jax.vmap(smoothed)(logits, batch.y))
        metrics = {
            "adversarial_loss": value,
            "adversarial_accuracy": accuracy(jax.vmap(worst)(logits, batch.y), batch.y),
        }
        return value, LossOutput(variables.stats, context.state, metrics)

    return Defense(no_state, loss)
