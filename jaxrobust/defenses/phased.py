"""Adversarial training by one attack at first and by another later."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrobust import checks
from jaxrobust.defenses.adversarial import on_points
from jaxrobust.defenses.base import Defense, check_attack, check_attack_mode, check_ramp
from jaxrobust.types import Array, Attack, AttackResult, Key, LogitsFn, Scalar


class _Phases(Attack):
    """`first` until `late`, then `then`; only the one in force is run."""

    first: Attack
    then: Attack
    late: Array | bool

    def __call__(self, key: Key, f: LogitsFn, x: Array, y: Array) -> AttackResult:
        return jax.lax.cond(
            self.late,
            lambda: self.then(key, f, x, y),
            lambda: self.first(key, f, x, y),
        )


def phased(
    first: Attack,
    then: Attack,
    *,
    share: Scalar,
    attack_mode: str = "eval",
    ramp: Scalar = 0.0,
) -> Defense:
    """Minimizes the mean cross-entropy at the points of `first`, and later at those of `then`.

    FGSM first and PGD then is the FGSM-PGD training of FOSC's section 3.2 and Figure 3 (Wang et al.
    2019), whose weak attack fills the first 20 of 120 epochs.

    Args:
      first: run on every batch of the first part of training.
      then: run on those after it.
      share: how much of training the first part is, from 0 to 1 (paper: 20 / 120).
      attack_mode, ramp: see `adversarial_examples`; the ramp is of both attacks.

    Raises:
      TypeError: a set in an attack's place.
      ValueError: a share outside of [0, 1], an unknown mode, or as `adversarial_examples`.

    Example:
      >>> from jaxrobust import attacks, defenses, threats
      >>> ball = threats.Linf(0.1)
      >>> weak, strong = attacks.fgsm(ball), attacks.pgd(ball, step_size=0.025, steps=10)
      >>> defense = defenses.phased(weak, strong, share=1 / 6)
    """
    for attack in (first, then):
        check_attack(attack, defense="phased")
    checks.fraction("share", share)
    check_attack_mode(attack_mode)
    both = _Phases(first=first, then=then, late=jnp.bool_(False))
    check_ramp(ramp, both)

    def in_force(state: tuple, progress: Scalar) -> Attack:
        del state
        return both.replace(late=jnp.asarray(progress) >= share)

    return on_points(in_force, attack_mode=attack_mode, ramp=ramp)
