"""Wrappers around models: against the same network with the step written into it."""

from __future__ import annotations

from typing import Any

import bridge_cases as cases
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrobust import duals, evaluation, losses, models
from jaxrobust.threats import Linf
from jaxrobust.types import Model, Variables

MEAN, STD = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)
IMAGES = jnp.asarray(np.random.default_rng(0).uniform(size=(4, 5, 6, 3)), jnp.float32)


def watching(logits: Any) -> tuple[Model, list]:
    """A model that notes what it is given."""
    seen: list[Any] = []

    def init(key: jax.Array, x: jax.Array) -> Variables:
        seen.append(x)
        return Variables(jnp.ones(()), {"count": jnp.zeros(())})

    def apply(variables: Variables, x: jax.Array, **options: Any) -> Any:
        seen.append((x, options))
        return variables.params * logits(x), {"count": variables.stats["count"] + 1}

    return Model(init, apply), seen


def first_three(x: jax.Array) -> jax.Array:
    return x.reshape(len(x), -1)[:, :3]


@pytest.mark.parametrize("wrap", ["normalized", "channels_first", "binary"])
def test_init_and_apply_see_what_the_network_wants(wrap: str) -> None:
    around, expected = {
        "normalized": (
            lambda m: models.normalized(m, MEAN, STD),
            (np.asarray(IMAGES, np.float64) - MEAN) / STD,
        ),
        "channels_first": (models.channels_first, np.transpose(IMAGES, (0, 3, 1, 2))),
        "binary": (models.binary, IMAGES),
    }[wrap]
    model, seen = watching(lambda x: first_three(x)[:, :1] if wrap == "binary" else first_three(x))
    wrapped = around(model)
    variables = wrapped.init(jax.random.key(0), IMAGES)
    key = jax.random.key(1)
    options = {"train": True, "key": key, "axes": ("devices",)}
    logits, stats = wrapped.apply(variables, IMAGES, **options)
    assert seen[1][1] == options
    for found in (seen[0], seen[1][0]):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
        assert found.dtype == jnp.float32
    assert float(stats["count"]) == 1
    given = np.asarray(expected).reshape(4, -1)[:, :3]
    shown = np.stack([np.zeros(4), given[:, 0]], axis=1) if wrap == "binary" else given
    np.testing.assert_allclose(logits, shown, rtol=1e-6)


def test_numbers_may_be_one_or_one_per_channel() -> None:
    for mean, std in ((0.5, 0.25), ([0.5] * 3, np.full(3, 0.25)), (np.float32(0.5), (0.25,))):
        model = models.normalized(first_three, mean, std)
        logits = model.apply(model.init(None, None), IMAGES)[0]
        np.testing.assert_allclose(logits, (first_three(IMAGES) - 0.5) / 0.25, rtol=1e-6)
    wrong = models.normalized(first_three, (0.5, 0.5), 1.0)
    with pytest.raises(ValueError, match="mean has 2 entries for 3 channels"):
        wrong.apply(wrong.init(None, None), IMAGES)
    for mean, std, told in (
        (0.5, 0.0, "std must be finite and above 0"),
        (np.nan, 1.0, "mean must be a finite number or one per channel"),
        (np.zeros((1, 3)), 1.0, "mean must be a finite number or one per channel"),
        ((), 1.0, "mean must be a finite number or one per channel"),
    ):
        with pytest.raises(ValueError, match=told):
            models.normalized(first_three, mean, std)


def test_one_output_is_the_log_odds() -> None:
    z = jnp.asarray([-3.0, 0.5, 40.0], jnp.float32)
    for shape in ((3,), (3, 1)):
        model = models.binary(lambda x, shape=shape: x[:, 0].reshape(shape))
        logits = model.apply(model.init(None, None), z[:, None])[0]
        for label in (0, 1):
            y = jnp.full(3, label)
            found = jax.vmap(losses.cross_entropy)(logits, y)
            logistic = optax.sigmoid_binary_cross_entropy(z, y.astype(jnp.float32))
            np.testing.assert_allclose(found, logistic, rtol=1e-6)
            margins = jax.vmap(losses.margin)(logits, y)
            np.testing.assert_allclose(margins, z if label == 0 else -z)
    wrong = models.binary(first_three)
    with pytest.raises(ValueError, match=r"one output, \[B\] or \[B, 1\], got \(4, 3\)"):
        wrong.apply(wrong.init(None, None), IMAGES)
    with pytest.raises(
        ValueError, match=r"takes images \[B, H, W, C\], got inputs of shape \(6, 4\)"
    ):
        models.channels_first(first_three).apply(Variables(()), cases.X)


def test_wrapping_again_compiles_nothing_anew() -> None:
    def wrap(mean: Any) -> Model:
        return models.binary(models.normalized(models.channels_first(first_three), mean, 2.0))

    assert wrap((0.1, 0.2)).apply is wrap(np.asarray([0.1, 0.2])).apply
    assert wrap((0.1, 0.2)).apply is not wrap((0.1, 0.3)).apply


def test_robustness_of_a_wrapped_linear_network_is_known() -> None:
    w = np.asarray([[2.0], [-1.0], [0.5]], np.float32)
    model = models.binary(models.normalized(lambda x: x @ w, MEAN, STD))
    rng = np.random.default_rng(4)
    x = rng.uniform(0.3, 0.7, size=(40, 3)).astype(np.float32)
    slopes = w[:, 0].astype(np.float64) / STD
    z = (x.astype(np.float64) - MEAN) @ slopes
    y = (z > 0).astype(int)
    y[::5] = 1 - y[::5]
    signed = np.where(y == 1, z, -z)
    robust = signed - 0.1 * np.abs(slopes).sum() > 0
    assert 0 < robust.sum() < (signed > 0).sum() < 40
    options: Any = {"batch_size": 40, "progress": False, "devices": jax.devices()[:1]}
    attack = cases.PGD.replace(step_size=0.1)
    report = evaluation.evaluate(cases.KEY, model, None, (x, y), {"PGD": attack}, **options)
    np.testing.assert_array_equal(report.clean, signed > 0)
    np.testing.assert_array_equal(report.attacks["PGD"].robust, robust)
    kind = {"methods": ("interval",)}
    proved = evaluation.certified(model, None, (x, y), Linf(0.1), **options, options=kind)
    np.testing.assert_array_equal(proved.robust, robust)
    assert evaluation.sandwich(report, proved).kind == "deterministic"


@pytest.mark.slow
def test_bounds_pass_through_channels_first() -> None:
    w = jnp.asarray(np.random.default_rng(2).normal(size=(3 * 2 * 2, 3)), jnp.float32)

    def relu_net(x: jax.Array) -> jax.Array:
        return jax.nn.relu(x.reshape(len(x), -1) @ w)

    image = IMAGES[0, :2, :2]
    first = models.channels_first(relu_net)
    f = first.logits_fn(first.init(None, None))
    moved = jnp.transpose(image, (2, 0, 1))
    margins = [
        duals.certify(g, at, jnp.int32(0), Linf(0.01), methods=("wong_kolter",)).lower
        for g, at in ((f, image), (lambda x: relu_net(x[None])[0], moved))
    ]
    np.testing.assert_allclose(*margins, atol=1e-5)


@pytest.mark.slow
def test_a_wrapped_network_trains(one_device: None, tmp_path: Any) -> None:
    network = models.build("mlp", 10, {"widths": (16,)})
    model = models.normalized(models.channels_first(network), 0.3, 0.5)
    variables = cases.trained(model, tmp_path / "run").state.variables
    clean, attacked = cases.accuracies(model, variables)
    assert clean > attacked > 10
    moved = jnp.transpose((cases.TEST - 0.3) / 0.5, (0, 3, 1, 2))
    logits = network.apply({"params": variables.params}, moved)
    assert clean == pytest.approx(100 * np.mean(logits.argmax(1) == cases.DIGITS.test.y))
    own = network.bind({"params": variables.params})
    cases.assert_attacked_alike(
        model,
        variables,
        lambda x: own(jnp.transpose((x[None] - 0.3) / 0.5, (0, 3, 1, 2)))[0],
        cases.IMAGES,
    )
