"""Adversarial training: minimize the loss at the points an attack finds."""

from __future__ import annotations

from typing import Any

import jax

from jaxrobust import attacks
from jaxrobust.defenses.base import (
    Aux,
    Defense,
    check_attack_mode,
    check_ramp,
    forward,
    metrics_of,
    no_state,
    perturb,
)
from jaxrobust.types import Array, Attack, Batch, Key, Model, Scalar, ThreatModel, Variables


def adversarial(attack: Attack, *, attack_mode: str = "eval", ramp: Scalar = 0.0) -> Defense:
    """Minimizes the mean cross-entropy at the attack's points (Madry et al. 2018; DALE, P-RO).

    Args:
      attack: run on every batch. attack_mode, ramp: see `perturb`.
    """
    check_attack_mode(attack_mode)
    check_ramp(ramp, attack)

    def loss(
        key: Key,
        model: Model,
        variables: Variables,
        batch: Batch,
        *,
        nu: Array | None,
        state: Any,
        progress: Scalar,
        axes: tuple[str, ...],
    ) -> tuple[Array, Aux]:
        del nu
        attack_key, drop_key = jax.random.split(key)
        points = perturb(
            attack_key, attack, model, variables, batch,
            attack_mode=attack_mode, ramp=ramp, progress=progress, axes=axes,
        )  # fmt: skip
        logits, variables = forward(drop_key, model, variables, points, axes=axes)
        metrics = metrics_of(batch.y, adversarial=logits)
        return metrics["adversarial_loss"], Aux(variables.stats, state, metrics)

    return Defense(no_state, loss)


def fgsm(
    threat: ThreatModel, *, attack_mode: str = "eval", ramp: Scalar = 0.0, **options: Any
) -> Defense:
    """Adversarial training with one FGSM step.

    `options` are those of `attacks.fgsm`; for `attack_mode` and `ramp` see `perturb`.

    With the default zero start it is prone to catastrophic overfitting: robust to FGSM, broken by
    PGD (DALE, Table 1). Goodfellow et al. 2015.
    """
    return adversarial(attacks.fgsm(threat, **options), attack_mode=attack_mode, ramp=ramp)


def pgd(
    threat: ThreatModel, *, attack_mode: str = "eval", ramp: Scalar = 0.0, **options: Any
) -> Defense:
    """Adversarial training with PGD.

    `options` are those of `attacks.pgd`; for `attack_mode` and `ramp` see `perturb`.

    Takes the last iterate unless told otherwise, as in the papers. Madry et al. 2018.
    """
    return adversarial(
        attacks.pgd(threat, **{"keep": "last", **options}), attack_mode=attack_mode, ramp=ramp
    )
