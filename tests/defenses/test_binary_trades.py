"""The binary form of TRADES on a linear score, in NumPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training.training_cases import CLASSES, SIZE, linear

from jaxrobust import defenses
from jaxrobust.threats import Linf
from jaxrobust.types import Batch, Variables

DRAW = np.random.default_rng(0)
X, Y = DRAW.uniform(0.2, 0.8, (8, SIZE)), DRAW.integers(0, 2, 8)
W, B = DRAW.normal(size=(SIZE, 2)), DRAW.normal(size=2)
EPS, LAM = 0.1, 3.0


def shifted(key, threat, x):
    """Off the clean point, where the product of the scores is stationary in neither sign."""
    return threat.project(x, x + jnp.asarray(0.01, x.dtype))


def by_hand() -> tuple[float, np.ndarray]:
    """The loss and its gradient in W."""
    w, b = W[:, 1] - W[:, 0], B[1] - B[0]
    clean = X @ w + b
    # The product falls along -sign(f(x) w); one step of the radius reaches the corner.
    points = np.clip(X - EPS * np.sign(clean[:, None] * w), X - EPS, X + EPS)
    moved, sign = points @ w + b, 2 * Y - 1
    product = moved * clean / LAM
    value = np.maximum(0, 1 - sign * clean).mean() + np.maximum(0, 1 - product).mean()
    natural = -(sign * (sign * clean < 1))[:, None] * X
    robust = -((product < 1) / LAM)[:, None] * (clean[:, None] * points + moved[:, None] * X)
    slope = (natural + robust).mean(0)
    return value, np.stack([-slope, slope], axis=1)


def test_loss_and_gradient_match_the_closed_form() -> None:
    defense = defenses.binary_trades(
        defenses.trades_attack(Linf(EPS), step_size=2 * EPS, steps=3, start=shifted), lam=LAM
    )
    batch = Batch(jnp.asarray(X, jnp.float32), jnp.asarray(Y), jnp.arange(8))

    @jax.jit
    def run(params):
        def loss(params):
            variables = Variables(params)
            return defense.loss(
                jax.random.key(0), linear(2), variables, batch, defenses.TrainContext()
            )

        return jax.value_and_grad(loss, has_aux=True)(params)

    params = {"w": jnp.asarray(W, jnp.float32), "b": jnp.asarray(B, jnp.float32)}
    (value, _), gradient = run(params)
    expected, slope = by_hand()
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient["w"], slope, rtol=1e-4, atol=1e-5)


def test_mistakes_name_the_value() -> None:
    options = {"step_size": 0.1, "steps": 1}
    with pytest.raises(ValueError, match="lam must be finite and above 0, got 0"):
        defenses.binary_trades(defenses.trades_attack(Linf(EPS), **options), lam=0.0)
    model, batch = linear(), Batch(jnp.asarray(X, jnp.float32), jnp.asarray(Y), jnp.arange(8))
    params = {"w": jnp.zeros((SIZE, CLASSES)), "b": jnp.zeros(CLASSES)}
    with pytest.raises(ValueError, match="binary TRADES needs 2 logits, got 4"):
        defenses.binary_trades(defenses.trades_attack(Linf(EPS), **options), lam=1.0).loss(
            jax.random.key(0), model, Variables(params), batch, defenses.TrainContext()
        )
