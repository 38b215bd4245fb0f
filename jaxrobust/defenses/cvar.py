"""Adversarial training on the hardest examples: the conditional value at risk of the loss."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrobust import checks, losses
from jaxrobust.defenses.adversarial import on_points
from jaxrobust.defenses.base import Defense, TrainContext, check_attack, check_ramp
from jaxrobust.types import Array, Attack, Scalar


def tail_mean(each: Array, threshold: Array, share: Scalar) -> Array:
    """t + mean(max(0, losses - t)) / share, an upper bound of the mean of the largest losses.

    The smallest over t, reached at the (1 - share)-quantile, is the mean of the largest `share` of
    the losses: their conditional value at risk (Rockafellar and Uryasev 2000, theorem 1).
    """
    return threshold + jnp.mean(jax.nn.relu(each - threshold)) / share


def cvar(
    attack: Attack,
    *,
    share: Scalar,
    learning_rate: Scalar,
    attack_mode: str = "eval",
    ramp: Scalar = 0.0,
) -> Defense:
    """Minimizes the mean of the largest `share` of the losses CE(x'), x' found by PGD.

    That is, t + mean max(0, CE(x') - t) / share over the parameters and a threshold t, which
    gradient steps move from 0 toward the (1 - share)-quantile of the losses (Rockafellar and
    Uryasev 2000). t is part of the train state (checkpoints hold it) and is reported as
    `threshold`. While it is below all losses, their gradient is 1 / share times that of
    `defenses.pgd`; with share 1 it stays there, and the two methods are the same.

    Args:
      attack: finds x'; PGD with `keep="last"` as in `defenses.pgd`.
      share: of the data, above 0 and at most 1.
      learning_rate: of t, whose steps are this times (share of losses above t) / share - 1.
      attack_mode, ramp: see `adversarial_examples`.
    """
    made_by = 'attacks.pgd(threat, step_size=..., steps=..., keep="last")'
    check_attack(attack, defense="cvar", made_by=made_by)
    checks.positive("share", share)
    checks.fraction("share", share)
    checks.positive("learning_rate", learning_rate)
    check_ramp(ramp, attack)

    def objective(logits: Array, y: Array, context: TrainContext) -> tuple[Array, dict[str, Array]]:
        each = jax.vmap(losses.cross_entropy)(logits, y)
        threshold = _shared(context.state, context).astype(each.dtype)
        return tail_mean(each, threshold, share), {"threshold": jax.lax.stop_gradient(threshold)}

    def ascend_state(state: Array, gradient: Array) -> Array:
        return state - jnp.asarray(learning_rate, state.dtype) * gradient

    return on_points(
        lambda state, progress: attack,
        attack_mode=attack_mode,
        ramp=ramp,
        init=lambda: jnp.zeros((), jnp.float32),
        ascend_state=ascend_state,
        objective=objective,
    )


def _shared(state: Array, context: TrainContext) -> Array:
    """The state, with gradients divided by the number of devices.

    The step sums the state's gradients over devices, while the loss is the mean of theirs.
    """
    devices = jax.lax.axis_size(context.axes) if context.axes else 1
    held = jax.lax.stop_gradient(state)
    return held + (state - held) / devices
