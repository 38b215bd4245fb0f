"""MART: adversarial training that leans on the examples the model gets wrong."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrobust import checks, losses
from jaxrobust.defenses.base import Defense, check_attack, mean_loss, paired
from jaxrobust.defenses.trades import MADE_BY
from jaxrobust.types import Array, Attack, Scalar


def mart(attack: Attack, *, beta: Scalar, attack_mode: str = "eval", ramp: Scalar = 0.0) -> Defense:
    """Minimizes mean BCE(x') + beta * mean KL(p(x) || p(x')) (1 - p_y(x)), x' found by PGD.

    BCE is the cross-entropy minus log(1 - p_k), k the likeliest wrong class. MART (Wang et al.
    2020, eq. 11); gradients flow through the weight 1 - p_y(x), as in the released code, whose
    small offsets inside the logarithms are not needed here (see `losses.boosted_cross_entropy`).

    Args:
      attack: finds x'; `trades_attack` is the released code's.
      beta: weight of the second term (paper: 5 or 6).
      attack_mode, ramp: see `adversarial_examples`.
    """
    check_attack(attack, defense="mart", made_by=MADE_BY)
    checks.nonnegative("beta", beta)

    def unsure(clean: Array, adversarial: Array, y: Array) -> Array:
        weight = jnp.exp(losses.log_error_probability(clean, y))
        return losses.kl(adversarial, clean) * weight

    def objective(clean: Array, adversarial: Array, y: Array, nu: None) -> tuple[Array, None]:
        del nu
        boosted = mean_loss(losses.boosted_cross_entropy, adversarial, y)
        return boosted + beta * jnp.mean(jax.vmap(unsure)(clean, adversarial, y)), None

    return paired(attack, objective, attack_mode=attack_mode, ramp=ramp)
