"""Logit pairing: clean and perturbed logits are drawn together (Kannan et al. 2018)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrobust import attacks, checks
from jaxrobust.defenses.base import (
    Defense,
    LossOutput,
    TrainContext,
    check_attack,
    forward,
    mean_cross_entropy,
    metrics_of,
    no_state,
    paired,
)
from jaxrobust.defenses.trades import MADE_BY
from jaxrobust.threats import Linf
from jaxrobust.types import Array, Attack, Batch, Key, Model, Scalar, Variables


def logit_distance(a: Array, b: Array) -> Array:
    """||a - b||_2 of one example's logits, with gradient 0 where they agree."""
    square = jnp.sum((a - b) ** 2)
    apart = square > 0
    return jnp.where(apart, jnp.sqrt(jnp.where(apart, square, 1)), 0)


def mean_distance(clean: Array, other: Array) -> Array:
    """The batch mean of ||z - z'||_2."""
    return jnp.mean(jax.vmap(logit_distance)(clean, other))


def mean_square(clean: Array, other: Array) -> Array:
    """The batch mean of ||z - z'||_2^2."""
    return jnp.mean(jnp.sum((clean - other) ** 2, axis=-1))


def alp(
    attack: Attack,
    *,
    weight: Scalar,
    original: bool = False,
    attack_mode: str = "eval",
    ramp: Scalar = 0.0,
) -> Defense:
    """Adversarial logit pairing: minimizes mean CE(x') + weight * mean ||z(x') - z(x)||_2.

    The form of the DALE paper's released code. `original=True` is that of Kannan et al. 2018,
    section 3: half clean and half adversarial cross-entropy, and the squared distance.

    Args:
      attack: finds x'; `trades_attack` is the released code's.
      weight: of the pairing.
      attack_mode, ramp: see `adversarial_examples`.
    """
    check_attack(attack, defense="alp", made_by=MADE_BY)
    checks.nonnegative("weight", weight)

    def objective(clean: Array, adversarial: Array, y: Array, nu: None) -> tuple[Array, None]:
        del nu
        loss = mean_cross_entropy(adversarial, y)
        if not original:
            return loss + weight * mean_distance(clean, adversarial), None
        mixed = (mean_cross_entropy(clean, y) + loss) / 2
        return mixed + weight * mean_square(clean, adversarial), None

    return paired(attack, objective, attack_mode=attack_mode, ramp=ramp)


def clp(
    attack: Attack, *, weight: Scalar, attack_mode: str = "eval", ramp: Scalar = 0.0
) -> Defense:
    """Minimizes mean CE(x) + weight * mean ||z(x') - z(x)||_2, x' found by PGD.

    What the DALE paper's released code calls clean logit pairing; the method of that name in
    Kannan et al. 2018 is `noisy_clp`. Arguments as `alp`.
    """
    check_attack(attack, defense="clp", made_by=MADE_BY)
    checks.nonnegative("weight", weight)

    def objective(clean: Array, adversarial: Array, y: Array, nu: None) -> tuple[Array, None]:
        del nu
        return mean_cross_entropy(clean, y) + weight * mean_distance(clean, adversarial), None

    return paired(attack, objective, attack_mode=attack_mode, ramp=ramp)


def noisy_clp(
    *, weight: Scalar, sigma: Scalar = 0.5, lower: float = 0.0, upper: float = 1.0
) -> Defense:
    """Clean logit pairing: minimizes mean CE(x + xi) + weight * mean ||z_i - z_j||_2^2.

    xi is normal with deviation `sigma` (paper: .5), clipped to the pixel box, and i, j are
    unrelated examples of the batch: each one's partner is half of the (device's) batch away. No
    attack. Kannan et al. 2018, section 3.2; it was broken by stronger attacks.

    Args:
      weight: of the pairing.
      sigma: in the units of the inputs.
      lower, upper: the box of the inputs; -inf and inf for none.
    """
    checks.nonnegative("weight", weight)
    checks.nonnegative("sigma", sigma)
    # A set, so that training looks whether its examples lie in the box.
    box = Linf(0.0, lower=lower, upper=upper)

    def loss(
        key: Key, model: Model, variables: Variables, batch: Batch, context: TrainContext
    ) -> tuple[Array, LossOutput]:
        noise_key, drop_key = jax.random.split(key)
        keys = attacks.example_keys(noise_key, batch.index)
        noise = jax.vmap(lambda k, x: jax.random.normal(k, x.shape, x.dtype))(keys, batch.x)
        noisy = jnp.clip(batch.x + jnp.asarray(sigma, batch.x.dtype) * noise, box.lower, box.upper)
        logits, variables = forward(drop_key, model, variables, noisy, axes=context.axes)
        partners = jnp.roll(logits, len(logits) // 2, axis=0)
        metrics = metrics_of(batch.y, clean=logits)
        value = metrics["clean_loss"] + weight * mean_square(logits, partners)
        return value, LossOutput(variables.stats, context.state, metrics)

    return Defense(no_state, loss)
