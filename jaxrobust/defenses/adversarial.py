"""Adversarial training: minimize the loss at the points an attack finds."""

from __future__ import annotations

from collections.abc import Callable

import jax

from jaxrobust import attacks, losses
from jaxrobust.defenses.base import (
    Defense,
    LossOutput,
    TrainContext,
    adversarial_examples,
    check_attack,
    check_attack_mode,
    check_ramp,
    forward,
    mean_cross_entropy,
    metrics_of,
    no_state,
    over_devices,
)
from jaxrobust.types import (
    Array,
    Attack,
    Batch,
    Key,
    Loss,
    Model,
    PyTree,
    Scalar,
    ThreatModel,
    Variables,
)


def adversarial(attack: Attack, *, attack_mode: str = "eval", ramp: Scalar = 0.0) -> Defense:
    """Minimizes the mean cross-entropy at the attack's points (Madry et al. 2018; DALE, P-RO).

    Args:
      attack: run on every batch.
      attack_mode, ramp: see `adversarial_examples`.
    """
    check_attack(attack, defense="adversarial")
    check_ramp(ramp, attack)
    return on_points(lambda state, progress: attack, attack_mode=attack_mode, ramp=ramp)


Objective = Callable[[Array, Array, TrainContext], tuple[Array, dict[str, Array]]]


def _mean(logits: Array, y: Array, context: TrainContext) -> tuple[Array, dict[str, Array]]:
    del context
    return mean_cross_entropy(logits, y), {}


def on_points(
    attack: Callable[[PyTree, Scalar], Attack],
    *,
    attack_mode: str = "eval",
    ramp: Scalar = 0.0,
    init: Callable[[], PyTree] = no_state,
    learn: Callable[[PyTree, Array], PyTree] | None = None,
    ascend_state: Callable[[PyTree, PyTree], PyTree] | None = None,
    objective: Objective = _mean,
) -> Defense:
    """Adversarial training with an attack that depends on the method's state and on progress.

    Args:
      attack: (state, progress) -> the attack in force.
      attack_mode, ramp: see `adversarial_examples`.
      init: the state before training.
      learn: (state, adversarial accuracy in % over all devices) -> the state after a batch; None
        where it never changes.
      ascend_state: see `Defense`.
      objective: (logits at the attack's points, labels, context) -> what to minimize, and metrics
        of the method's own.
    """
    check_attack_mode(attack_mode)

    def loss(
        key: Key, model: Model, variables: Variables, batch: Batch, context: TrainContext
    ) -> tuple[Array, LossOutput]:
        attack_key, drop_key = jax.random.split(key)
        now = attack(context.state, context.progress)
        points = adversarial_examples(
            attack_key, now, model, variables, batch, context, attack_mode=attack_mode, ramp=ramp
        )
        logits, variables = forward(drop_key, model, variables, points, axes=context.axes)
        metrics, state = metrics_of(batch.y, adversarial=logits), context.state
        if learn is not None:
            seen = jax.lax.stop_gradient(metrics["adversarial_accuracy"])
            state = learn(state, over_devices(seen, context.axes))
        value, own = objective(logits, batch.y, context)
        return value, LossOutput(variables.stats, state, metrics | own)

    return Defense(init, loss, ascend_state=ascend_state)


def fgsm(
    threat: ThreatModel,
    *,
    step_size: Scalar | None = None,
    start: attacks.Start = attacks.clean,
    loss: Loss = losses.cross_entropy,
    keep: attacks.Keep = "last",
    attack_mode: str = "eval",
    ramp: Scalar = 0.0,
) -> Defense:
    """Adversarial training with one FGSM step.

    With the default zero start it is prone to catastrophic overfitting: robust to FGSM, broken by
    PGD (DALE, Table 1). Goodfellow et al. 2015.

    Args:
      threat, step_size, start, loss, keep: see `attacks.fgsm`.
      attack_mode, ramp: see `adversarial_examples`.
    """
    attack = attacks.fgsm(threat, step_size=step_size, start=start, loss=loss, keep=keep)
    return adversarial(attack, attack_mode=attack_mode, ramp=ramp)


def n_fgsm(
    threat: ThreatModel,
    *,
    k: Scalar = 2.0,
    step_size: Scalar | None = None,
    attack_mode: str = "eval",
    ramp: Scalar = 0.0,
) -> Defense:
    """Adversarial training with one step from noise of k radii, and no projection onto the ball.

    It costs as much as FGSM and keeps from catastrophic overfitting at larger radii. de Jorge et
    al. 2022.

    Args:
      threat, k, step_size: see `attacks.n_fgsm`.
      attack_mode, ramp: see `adversarial_examples`.
    """
    return adversarial(
        attacks.n_fgsm(threat, k=k, step_size=step_size), attack_mode=attack_mode, ramp=ramp
    )


def pgd(
    threat: ThreatModel,
    *,
    step_size: Scalar,
    steps: int,
    start: attacks.Start = attacks.uniform,
    loss: Loss = losses.cross_entropy,
    keep: attacks.Keep = "last",
    attack_mode: str = "eval",
    ramp: Scalar = 0.0,
) -> Defense:
    """Adversarial training with PGD.

    Takes the last iterate unless told otherwise, as in the papers. Madry et al. 2018.

    Args:
      threat, step_size, steps, start, loss, keep: see `attacks.pgd`.
      attack_mode, ramp: see `adversarial_examples`.
    """
    attack = attacks.pgd(
        threat, step_size=step_size, steps=steps, start=start, loss=loss, keep=keep
    )
    return adversarial(attack, attack_mode=attack_mode, ramp=ramp)
