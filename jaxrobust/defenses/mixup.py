"""Adversarial training on convex combinations of examples."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrobust import checks, losses
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
from jaxrobust.types import Array, Attack, Batch, Key, Loss, Model, Scalar, Variables


def mixup(
    attack: Attack, *, alpha: Scalar, attack_mode: str = "eval", ramp: Scalar = 0.0
) -> Defense:
    """Minimizes s CE(z', y_i) + (1 - s) CE(z', y_j) around z = s x_i + (1 - s) x_j.

    z' is what `attack` finds around z when it climbs that same mixed loss; s ~ Beta(alpha, alpha)
    is drawn once per batch, the partner j at random within the device's share of the batch. Zhang
    et al. 2018; Wong's thesis, section 4.4.2 (alpha 1.4 works best against robust overfitting).

    Args:
      attack: with a `loss` setting, such as `attacks.pgd(..., keep="last")`.
      alpha: above 0.
      attack_mode, ramp: see `adversarial_examples`.
    """
    check_attack(attack, defense="mixup")
    checks.positive("alpha", alpha)
    check_attack_mode(attack_mode)
    check_ramp(ramp, attack)
    if "loss" not in attack.settings:
        raise ValueError("mixup needs an attack with a `loss` setting, such as pgd")

    def mixed(share: Array, other: Array) -> Loss:
        def loss(logits: Array, y: Array) -> Array:
            pair = losses.cross_entropy(logits, y), losses.cross_entropy(logits, other)
            return share * pair[0] + (1 - share) * pair[1]

        return loss

    def loss(
        key: Key, model: Model, variables: Variables, batch: Batch, context: TrainContext
    ) -> tuple[Array, LossOutput]:
        share_key, pair_key, attack_key, drop_key = jax.random.split(key, 4)
        share = jax.random.beta(share_key, alpha, alpha, dtype=batch.x.dtype)
        for axis in context.axes:
            pair_key = jax.random.fold_in(pair_key, jax.lax.axis_index(axis))
        partner = jax.random.permutation(pair_key, len(batch.x))
        other = batch.y[partner]
        blend = batch._replace(x=share * batch.x + (1 - share) * batch.x[partner])
        points = adversarial_examples(
            attack_key, attack, model, variables, blend, context, attack_mode=attack_mode,
            ramp=ramp, make_loss=lambda clean, label: mixed(share, label), targets=(other,),
        )  # fmt: skip
        logits, variables = forward(drop_key, model, variables, points, axes=context.axes)
        each = jax.vmap(lambda z, y, label: mixed(share, label)(z, y))(logits, batch.y, other)
        value = jnp.mean(each)
        metrics = {
            "adversarial_loss": value,
            "adversarial_accuracy": accuracy(logits, jnp.where(share >= 0.5, batch.y, other)),
        }
        return value, LossOutput(variables.stats, context.state, metrics)

    return Defense(no_state, loss)
