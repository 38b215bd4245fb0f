"""TRADES: trade clean accuracy against the stability of the prediction."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrobust import attacks, checks, losses
from jaxrobust.defenses.base import Defense, check_attack, mean_cross_entropy, paired
from jaxrobust.types import Array, Attack, Loss, Scalar, ThreatModel

MADE_BY = "defenses.trades_attack(threat, step_size=..., steps=...)"
"""The call that errors show."""


def divergence_from(reference: Array) -> Loss:
    """The loss that TRADES' attack climbs: KL(softmax(reference) || softmax(logits))."""
    return lambda logits, y: losses.kl(logits, reference)


def mean_divergence(clean: Array, adversarial: Array) -> Array:
    """The batch mean of KL(p(x) || p(x')), with gradients through both."""
    return jnp.mean(jax.vmap(losses.kl)(adversarial, clean))


def trades_attack(
    threat: ThreatModel,
    *,
    step_size: Scalar,
    steps: int,
    start: attacks.Start = attacks.gaussian,
    loss: Loss = losses.cross_entropy,
    keep: attacks.Keep = "last",
) -> Attack:
    """PGD as the released code of TRADES, MART and logit pairing runs it: `attacks.pgd` with other
    defaults, a start at x + 1e-3 N(0, I) and the last iterate.

    What TRADES' attack climbs, the divergence from the clean prediction, `trades` sets itself.
    """
    return attacks.pgd(threat, step_size=step_size, steps=steps, start=start, loss=loss, keep=keep)


def trades(
    attack: Attack, *, beta: Scalar, attack_mode: str = "eval", ramp: Scalar = 0.0
) -> Defense:
    """Minimizes mean CE(x) + beta * mean KL(p(x) || p(x')), x' the attack's maximizer of the KL.

    TRADES (Zhang et al. 2019), eq. 5 and Algorithm 1, with beta = 1 / lambda.

    Args:
      attack: `trades_attack`, or another that climbs a loss of its own; its loss becomes the KL.
      beta: weight of the regularizer (paper: 1 or 6); 0 is ERM.
      attack_mode, ramp: see `adversarial_examples`.

    Raises:
      TypeError: a set in the attack's place.
      ValueError: a negative or non-finite beta.

    Example:
      >>> from jaxrobust import attacks, defenses, threats
      >>> attack = defenses.trades_attack(threats.Linf(0.3), step_size=0.01, steps=40)
      >>> method = defenses.trades(attack, beta=6.0)  # for `training.fit`
    """
    check_attack(attack, defense="trades", made_by=MADE_BY)
    checks.nonnegative("beta", beta)

    def objective(clean: Array, adversarial: Array, y: Array, nu: None) -> tuple[Array, None]:
        del nu
        return mean_cross_entropy(clean, y) + beta * mean_divergence(clean, adversarial), None

    return paired(
        attack,
        objective,
        attack_mode=attack_mode,
        ramp=ramp,
        make_loss=divergence_from,
    )


def _score(logits: Array) -> Array:
    """The score f of two logits: its sign is the prediction."""
    if logits.shape[-1] != 2:
        raise ValueError(f"binary TRADES needs 2 logits, got {logits.shape[-1]}; use trades")
    return logits[..., 1] - logits[..., 0]


def _hinge(product: Array) -> Array:
    return losses.hinge(product, jnp.ones((), jnp.int32))


def binary_trades(
    attack: Attack, *, lam: Scalar, attack_mode: str = "eval", ramp: Scalar = 0.0
) -> Defense:
    """Minimizes mean hinge(f(x) y) + mean hinge(f(x') f(x) / lam), x' maximizing the second term.

    TRADES (Zhang et al. 2019), eq. 3, in the binary form that theorem 3.1 bounds, with the hinge
    loss as in its Table 3. The score f is the difference of a model's two logits, labels 0 and 1
    stand for -1 and 1.

    Args:
      attack: as `trades`; its loss becomes the second term.
      lam: the paper's lambda, above 0.
      attack_mode, ramp: see `adversarial_examples`.
    """
    check_attack(attack, defense="binary_trades", made_by=MADE_BY)
    checks.positive("lam", lam)

    def agreement(clean: Array, adversarial: Array) -> Array:
        return _score(adversarial) * _score(clean) / lam

    def objective(clean: Array, adversarial: Array, y: Array, nu: None) -> tuple[Array, None]:
        del nu
        natural = jnp.mean(losses.hinge(_score(clean), 2 * y - 1))
        return natural + jnp.mean(_hinge(agreement(clean, adversarial))), None

    return paired(
        attack,
        objective,
        attack_mode=attack_mode,
        ramp=ramp,
        # The hinge falls with the agreement, but is flat, and no guide, where it is 0.
        make_loss=lambda reference: lambda logits, y: -agreement(reference, logits),
    )
