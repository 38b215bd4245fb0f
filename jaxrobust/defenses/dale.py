"""DALE: adversarial training under a constraint on the clean loss, by a Lagrange multiplier."""

from __future__ import annotations

from jaxrobust import checks
from jaxrobust.defenses.base import Defense, check_attack, mean_cross_entropy, paired
from jaxrobust.defenses.trades import MADE_BY, divergence_from, mean_divergence
from jaxrobust.types import Array, Attack, Scalar


def penalized(value: Array, nu: Array, constraint: Array) -> Array:
    """value + nu constraint, in the dtype of the losses (the multiplier keeps its own)."""
    return value + nu.astype(constraint.dtype) * constraint


def dale(
    attack: Attack,
    *,
    rho: Scalar,
    reverse: bool = False,
    attack_mode: str = "eval",
    ramp: Scalar = 0.0,
) -> Defense:
    """Minimizes CE(x') subject to mean CE(x) <= rho, x' drawn by Langevin steps.

    The training loss is the Lagrangian mean CE(x') + nu mean CE(x); the violation is
    mean CE(x) - rho, on which `lagrangian.dual_ascent` moves nu in the train state. With a fixed nu
    (dual step size 0) it is the regularized DALE of Table 2. DALE (Robey et al. 2021), P-CON and
    Algorithm 1.

    Args:
      attack: draws x'; the paper's is `attacks.langevin`.
      rho: the clean loss to hold (the paper: .5, .8, 1.0).
      reverse: minimize CE(x) subject to mean CE(x') <= rho instead.
      attack_mode, ramp: see `adversarial_examples`.

    Raises:
      TypeError: a set in the attack's place.
      ValueError: a negative or non-finite rho.

    Example:
      >>> from jaxrobust import attacks, defenses, lagrangian, threats
      >>> sampler = attacks.langevin(threats.Linf(0.3), step_size=0.1, steps=5, temperature=1e-5)
      >>> method = defenses.dale(sampler, rho=0.2)  # for `training.fit`, with a multiplier:
      >>> multiplier = lagrangian.for_run(1000, level=0.2)
    """
    sampler = "attacks.langevin(threat, step_size=..., steps=..., temperature=...)"
    check_attack(attack, defense="dale", made_by=sampler)
    checks.nonnegative("rho", rho)

    def objective(clean: Array, adversarial: Array, y: Array, nu: Array) -> tuple[Array, Array]:
        primal, bounded = (clean, adversarial) if reverse else (adversarial, clean)
        constraint = mean_cross_entropy(bounded, y)
        return penalized(mean_cross_entropy(primal, y), nu, constraint), constraint - rho

    return paired(
        attack,
        objective,
        attack_mode=attack_mode,
        ramp=ramp,
        constrained=True,
    )


def kl_dale(
    attack: Attack, *, rho: Scalar, attack_mode: str = "eval", ramp: Scalar = 0.0
) -> Defense:
    """Minimizes mean KL(p(x) || p(x')) subject to mean CE(x) <= rho, with TRADES' attack.

    TRADES' two terms with the fixed weight replaced by a multiplier, as in the released DALE code.

    Args:
      attack: as `trades`; its loss becomes the KL.
      rho: the clean loss to hold.
      attack_mode, ramp: see `adversarial_examples`.
    """
    check_attack(attack, defense="kl_dale", made_by=MADE_BY)
    checks.nonnegative("rho", rho)

    def objective(clean: Array, adversarial: Array, y: Array, nu: Array) -> tuple[Array, Array]:
        constraint = mean_cross_entropy(clean, y)
        return penalized(mean_divergence(clean, adversarial), nu, constraint), constraint - rho

    return paired(
        attack,
        objective,
        attack_mode=attack_mode,
        ramp=ramp,
        make_loss=divergence_from,
        constrained=True,
    )
