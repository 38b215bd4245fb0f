"""Training against several norms at once: MSD, the worst attack, and all attacks."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxrobust import attacks
from jaxrobust.defenses.adversarial import adversarial
from jaxrobust.defenses.base import (
    Defense,
    LossOutput,
    TrainContext,
    adversarial_examples,
    check_attack,
    check_attack_mode,
    check_ramp,
    forward,
    metrics_of,
    no_state,
)
from jaxrobust.types import Array, Attack, Batch, Key, Model, Scalar, Variables


def msd(attack: Attack, *, attack_mode: str = "eval", ramp: Scalar = 0.0) -> Defense:
    """Adversarial training with multi steepest descent (Wong's thesis, section 5.3.2, Algorithm 9).

    Args:
      attack: `attacks.msd`.
      attack_mode, ramp: see `adversarial_examples`.
    """
    check_attack(attack, defense="msd", made_by="attacks.msd(union, step_sizes=..., steps=...)")
    return adversarial(attack, attack_mode=attack_mode, ramp=ramp)


def worst(*several: Attack, attack_mode: str = "eval", ramp: Scalar = 0.0) -> Defense:
    """Adversarial training on the one of several attacks' points with the highest loss.

    Minimizes the mean over examples of max_p CE(x'_p): "Worst-PGD" of Wong's thesis, section
    5.3.1 (Tramer and Boneh 2019, "max"). The attacks must share their loss.
    """
    for attack in several:
        check_attack(attack, defense="worst")
    strongest = attacks.worst_of(*several, by="loss alone")
    return adversarial(strongest, attack_mode=attack_mode, ramp=ramp)


def augmented(
    several: Sequence[Attack], *, attack_mode: str = "eval", ramp: Scalar = 0.0
) -> Defense:
    """Adversarial training on the points of all of several attacks.

    Minimizes the mean over examples and attacks of CE(x'_p): "PGD-Aug" of Wong's thesis, section
    5.3.1 (Tramer and Boneh 2019, "avg"). One forward pass sees all points.
    """
    several = tuple(several)
    if not several:
        raise ValueError("augmented needs at least one attack, got none")
    check_attack_mode(attack_mode)
    for attack in several:
        check_attack(attack, defense="augmented")
        check_ramp(ramp, attack)

    def loss(
        key: Key, model: Model, variables: Variables, batch: Batch, context: TrainContext
    ) -> tuple[Array, LossOutput]:
        drop_key, *keys = jax.random.split(key, len(several) + 1)
        points = [
            adversarial_examples(
                k, attack, model, variables, batch, context, attack_mode=attack_mode, ramp=ramp
            )
            for k, attack in zip(keys, several, strict=True)
        ]
        logits, variables = forward(
            drop_key, model, variables, jnp.concatenate(points), axes=context.axes
        )
        metrics = metrics_of(jnp.tile(batch.y, len(several)), adversarial=logits)
        return metrics["adversarial_loss"], LossOutput(variables.stats, context.state, metrics)

    return Defense(no_state, loss)
