"""Expectation over transformation: attacks on defenses that are random at prediction time."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxrobust import checks, losses
from jaxrobust.attacks.ascend import fooled
from jaxrobust.types import Array, Attack, AttackResult, Key, LogitsFn, static


def digest(x: Array) -> Array:
    """A uint32 that depends on every bit and position of `x`: equal points, equal numbers."""
    words = jax.lax.bitcast_convert_type(jax.lax.stop_gradient(x), jnp.uint32).ravel()
    # Weyl's odd multiplier spreads neighboring positions; the products wrap modulo 2^32.
    weights = jnp.arange(1, 2 * words.size, 2, dtype=jnp.uint32) * jnp.uint32(2654435761)
    mixed = (words ^ (words >> jnp.uint32(15))) * weights
    return jnp.sum(mixed, dtype=jnp.uint32)


def expected(f: Callable[..., Array], key: Key, *, draws: int) -> LogitsFn:
    """Averages `draws` predictions `f(x, key=...)` of a random classifier.

    Every point has random numbers of its own, made from `key` and the point: so an attack sees
    fresh ones at each iterate, and its gradient is that of the expectation's estimate there.

    Args:
      f: (x, key=...) -> logits `[K]`, the classifier of one example.
      key: the key that all random numbers come from.
      draws: the number of predictions averaged at each point.

    Returns:
      A pure function of a point `[...]` that returns the mean logits `[K]` there.
    """

    def mean(x: Array) -> Array:
        keys = jax.random.split(jax.random.fold_in(key, digest(x)), draws)
        return jnp.mean(jax.vmap(lambda k: f(x, key=k))(keys), axis=0)

    return mean


class Expectation(Attack):
    """What `expectation` makes; see there."""

    attack: Attack
    draws: int = static()

    def lanes(self, classes: int) -> int:
        return self.draws * self.attack.lanes(classes)

    def __call__(self, key: Key, f: Callable[..., Array], x: Array, y: Array) -> AttackResult:
        attack_key, noise_key, verdict_key = jax.random.split(key, 3)
        result = self.attack(attack_key, expected(f, noise_key, draws=self.draws), x, y)
        # The attack chose its point by the draws it saw; the verdict needs one that it did not.
        logits = f(result.x, key=verdict_key)
        return result._replace(
            success=result.inside & fooled(logits, y),
            margin=losses.margin(logits, y),
            forwards=result.forwards * self.draws + 1,
            backwards=result.backwards * self.draws,
        )


def expectation(attack: Attack, draws: int = 20) -> Expectation:
    """Runs `attack` on the mean of `draws` random predictions per point; EoT.

    For a classifier `f(x, key=...)` that is random at prediction time, as
    `Model.logits_fn(variables)` of a randomized defense is. Success is judged on one more
    prediction with random numbers of its own. Athalye et al. 2018 (arXiv:1802.00420), section
    4.2; AutoAttack's "rand" version, which averages the gradients of the losses where this takes
    the loss of the averaged logits.

    Args:
      attack: any attack.
      draws: predictions averaged at each point; time and memory grow with it.
    """
    checks.at_least("draws", draws, 1)
    return Expectation(attack=attack, draws=draws)
