"""Training and attacks around a half-precision network keep float32: see docs/precision.md."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from training.training_cases import CLASSES, SHAPE, normalized, sgd

from jaxrobust import attacks, defenses, losses
from jaxrobust.lagrangian import dual_ascent
from jaxrobust.models import build, from_linen
from jaxrobust.threats import L2, Linf
from jaxrobust.training import DEVICES, init_state, make_step
from jaxrobust.types import Array, Attack, Batch, Key, Loss, Model, Variables

FLOAT32 = jnp.dtype("float32")
LINF, EPS = Linf(1 / 255), 1 / 255
PGD = {"step_size": EPS / 2, "steps": 2}
MODELS = {half: normalized(dtype=jnp.dtype(half)) for half in ("bfloat16", "float16")}
MODEL = MODELS["bfloat16"]
METHODS = {
    "pgd": defenses.pgd(LINF, **PGD),
    "pgd_train": defenses.pgd(LINF, attack_mode="train", **PGD),
    "trades": defenses.trades(defenses.trades_attack(LINF, **PGD), beta=6.0),
    "dale": defenses.dale(attacks.langevin(LINF, temperature=1e-3, **PGD), rho=0.5),
    "free": defenses.free(LINF, shape=(4, *SHAPE), replays=2),
    "cvar": defenses.cvar(attacks.pgd(LINF, **PGD, keep="last"), share=0.5, learning_rate=0.1),
    "awp": defenses.awp(attacks.pgd(LINF, **PGD), gamma=0.01),
}


def floats(tree: Any) -> set[np.dtype]:
    """The floating-point types among the leaves."""
    kinds = (leaf.dtype for leaf in jax.tree.leaves(tree))
    return {kind for kind in kinds if jnp.issubdtype(kind, jnp.floating)}


def batch_of(size: int) -> Batch:
    draw = np.random.default_rng(0)
    x = jnp.asarray(draw.uniform(0.1, 0.9, size=(size, *SHAPE)), FLOAT32)
    return Batch(x, jnp.asarray(draw.integers(0, CLASSES, size), jnp.int32), jnp.arange(size))


@pytest.mark.parametrize("half", MODELS)
@pytest.mark.parametrize("name", METHODS)
def test_state_and_metrics_stay_float32(name: str, half: str) -> None:
    model = MODELS[half]
    defense, optimizer, batch = METHODS[name], sgd(), batch_of(4)
    multiplier = dual_ascent(0.1) if defense.constrained else None
    state = init_state(jax.random.key(0), model, defense, optimizer, multiplier, batch.x[:1])
    step = make_step(model, defense, optimizer, multiplier=multiplier)
    one = jax.tree.map(lambda a: a[None], (state, batch))
    after, metrics = jax.eval_shape(jax.pmap(step, axis_name=DEVICES), *one)
    assert floats(after._replace(key=())) == {FLOAT32}
    assert {m.dtype for m in metrics.values()} == {FLOAT32}


def noting(model: Model) -> tuple[Model, list[Any]]:
    """The model, and a list of the types of the images it is shown."""
    shown: list[Any] = []

    def apply(variables: Any, x: Array, **options: Any) -> Any:
        shown.append(x.dtype)
        return model.apply(variables, x, **options)

    return Model(model.init, apply), shown


ATTACKS = {
    "fgsm": attacks.fgsm(LINF),
    "pgd": attacks.pgd(LINF, **PGD),
    "langevin": attacks.langevin(LINF, temperature=1e-3, **PGD),
    "apgd": attacks.apgd(LINF, steps=3),
    "fab": attacks.fab(LINF, steps=2),
    "square": attacks.square(LINF, queries=3),
    "ddn": attacks.ddn(L2(0.5), steps=2),
    "carlini_wagner": attacks.carlini_wagner(L2(0.5), steps=2, searches=1),
}


@pytest.mark.parametrize("half", MODELS)
@pytest.mark.parametrize("name", ATTACKS)
def test_attack_iterates_and_verdicts_are_float32(name: str, half: str) -> None:
    model, shown = noting(MODELS[half])
    batch = batch_of(3)
    f = model.logits_fn(MODELS[half].init(jax.random.key(0), batch.x))
    found = jax.eval_shape(
        lambda x, y: attacks.batched(ATTACKS[name], jax.random.key(0), f, x, y), batch.x, batch.y
    )
    assert floats(found) == {FLOAT32}
    assert set(shown) == {FLOAT32}


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_a_radius_below_bfloat16s_rounding_is_kept(mode: str) -> None:
    batch = batch_of(8)
    variables = MODEL.init(jax.random.key(0), batch.x)
    attack: Attack = attacks.pgd(LINF, keep="last", **PGD)
    points = jax.jit(
        lambda batch: defenses.adversarial_examples(
            jax.random.key(0),
            attack,
            MODEL,
            variables,
            batch,
            defenses.TrainContext(),
            attack_mode=mode,
        )
    )(batch)
    moved = np.abs(np.asarray(points - batch.x))
    assert moved.max() <= EPS * (1 + 1e-4)
    assert moved.max() >= EPS * (1 - 1e-4)
    rounded = points.astype(jnp.bfloat16).astype(FLOAT32)
    assert float(jnp.abs(rounded - batch.x).max()) > 1.1 * EPS


def plain(key: Key, threat: L2, *, rate: Array) -> optax.GradientTransformation:
    """Steps as long as the gradient itself."""
    del key, threat
    return optax.sgd(rate)


def test_the_gradient_that_attacks_climb_does_not_shrink_with_the_batch() -> None:
    """Each example climbs its own loss: a mean over the batch would divide its gradient by 64."""
    everywhere = L2(1e6, lower=-jnp.inf, upper=jnp.inf)
    options = {"steps": 1, "start": attacks.clean, "keep": "last"}
    attack = attacks.first_order(everywhere, plain, {"rate": 1.0}, **options)
    batch = batch_of(64)
    f = MODEL.logits_fn(MODEL.init(jax.random.key(0), batch.x))

    @jax.jit
    def moved(x: Array, y: Array) -> Array:
        return attacks.batched(attack, jax.random.key(0), f, x, y).x - x

    alone, together = moved(batch.x[:1], batch.y[:1])[0], moved(batch.x, batch.y)[0]
    assert float(jnp.abs(alone).max()) > 0.01
    np.testing.assert_allclose(together, alone, rtol=0.05, atol=1e-3)


@pytest.mark.parametrize("half", MODELS)
@pytest.mark.parametrize("gap", [2.0, 14.0, 18.0])
def test_what_float16_loses_of_a_confident_predictions_gradient(gap: float, half: str) -> None:
    """Cross-entropy's gradient 1 / (1 + e^gap) enters the network in the compute type.

    float16 rounds it to 0 below 2^-25: under a mean over 128 from a gap of 12.5, under each
    example's own loss from 17.3; the gradient of the margin does not depend on the gap.
    """
    count = 128
    model = from_linen(build("mlp", 2, {"widths": (), "dtype": jnp.dtype(half)}))
    x, y = jnp.ones((count, 1)), jnp.zeros(count, jnp.int32)
    params = {"dense1": {"kernel": jnp.asarray([[gap, 0.0]]), "bias": jnp.zeros(2)}}

    def total(params: Any, x: Array, loss: Loss, weight: float) -> Array:
        return weight * jax.vmap(loss)(model.apply(Variables(params, {}), x)[0], y).sum()

    slopes = jax.grad(total, (0, 1))
    for weight in (1 / count, 1.0):
        enters = weight / (1 + np.exp(gap))
        if half == "float16" and enters < 2**-25:
            enters = 0.0
        grads, pixels = slopes(params, x, losses.cross_entropy, weight)
        np.testing.assert_allclose(pixels, np.full((count, 1), -enters * gap), rtol=0.05)
        np.testing.assert_allclose(grads["dense1"]["kernel"][0, 0], -enters * count, rtol=0.05)
    np.testing.assert_array_equal(slopes(params, x, losses.margin, 1.0)[1], -gap)
