"""Mixup's blend, partners and mixed loss, on a linear softmax classifier in NumPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training.training_cases import CLASSES, SIZE, linear

from jaxrobust import attacks, defenses
from jaxrobust.threats import Linf
from jaxrobust.types import Batch, Variables

DRAW = np.random.default_rng(0)
X, Y = DRAW.uniform(size=(8, SIZE)), DRAW.integers(0, CLASSES, 8)
W = DRAW.normal(size=(SIZE, CLASSES))
EPS, STEP, STEPS = 0.1, 0.04, 2
ATTACK = attacks.pgd(Linf(EPS), step_size=STEP, steps=STEPS, start=attacks.clean, keep="last")


def by_hand(share: float, partner: np.ndarray) -> float:
    blend = share * X + (1 - share) * X[partner]
    target = share * np.eye(CLASSES)[Y] + (1 - share) * np.eye(CLASSES)[Y[partner]]
    z = blend
    for _ in range(STEPS):
        p = np.exp(z @ W)
        slope = (p / p.sum(-1, keepdims=True) - target) @ W.T
        z = np.clip(z + STEP * np.sign(slope), blend - EPS, blend + EPS).clip(0, 1)
    logits = z @ W
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return -(target * logp).sum(-1).mean()


def test_attack_and_loss_use_the_same_mixed_targets() -> None:
    key = jax.random.key(5)
    share_key, pair_key, _, _ = jax.random.split(key, 4)
    share = float(jax.random.beta(share_key, 1.4, 1.4))
    partner = np.asarray(jax.random.permutation(pair_key, 8))
    assert 0.05 < share < 0.95
    assert (Y[partner] != Y).any()
    batch = Batch(jnp.asarray(X, jnp.float32), jnp.asarray(Y), jnp.arange(8))
    params = {"w": jnp.asarray(W, jnp.float32), "b": jnp.zeros(CLASSES)}
    value, aux = jax.jit(
        lambda: defenses.mixup(ATTACK, alpha=1.4).loss(
            key, linear(), Variables(params), batch, defenses.TrainContext()
        )
    )()
    np.testing.assert_allclose(value, by_hand(share, partner), rtol=1e-5)
    np.testing.assert_allclose(aux.metrics["adversarial_loss"], value)


def test_mistakes_name_the_value() -> None:
    with pytest.raises(ValueError, match=r"alpha must be finite and above 0, got 0"):
        defenses.mixup(ATTACK, alpha=0.0)
    with pytest.raises(ValueError, match="mixup needs an attack with a `loss` setting"):
        defenses.mixup(attacks.worst_of(ATTACK), alpha=1.0)
