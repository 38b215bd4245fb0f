"""The bridge from Equinox: against the modules' own passes, in both modes, trained and attacked."""

from __future__ import annotations

import importlib
import json
from typing import Any

import bridge_cases as cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import models
from jaxrobust.contents import contents

eqx = pytest.importorskip("equinox")
pytestmark = pytest.mark.usefixtures("default_promotion")


class Net(eqx.Module):
    """Dense, batch normalization and dropout, with an integer array beside the parameters."""

    first: Any
    norm: Any
    dropout: Any
    last: Any
    order: jax.Array

    def __init__(
        self, key: jax.Array, rate: float = 0.0, features: int = 4, classes: int = 3, mode="ema"
    ) -> None:
        one, other = jax.random.split(key)
        self.first = eqx.nn.Linear(features, 8, key=one)
        self.norm = eqx.nn.BatchNorm(8, "batch", momentum=0.9, mode=mode)
        self.dropout = eqx.nn.Dropout(rate)
        self.last = eqx.nn.Linear(8, classes, key=other)
        self.order = jnp.arange(8)[::-1]

    def __call__(self, x: jax.Array, state: Any, *, key: jax.Array | None = None) -> Any:
        x, state = self.norm(self.first(x.reshape(-1)), state)
        x = self.dropout(jax.nn.relu(x), key=key)
        return self.last(x[self.order]), state


def network(seed: int = 0, **options: Any) -> tuple[Any, Any]:
    """With statistics of a first batch."""
    made = eqx.nn.make_with_state(Net)
    module, state = made(jax.random.key(seed), **options)
    features = options.get("features", 4)
    x = jax.random.uniform(jax.random.key(9), (6, features))
    return module, own(module, x, state, train=True)[1]


def own(module: Any, x: jax.Array, state: Any, *, train: bool) -> tuple[jax.Array, Any]:
    """Equinox's documented loop over a batch."""
    module = eqx.nn.inference_mode(module, value=not train)
    keys = jax.random.split(jax.random.key(0), len(x))
    lifted = jax.vmap(
        lambda x, s, key: module(x, s, key=key), in_axes=(0, None, 0), out_axes=(0, None),
        axis_name="batch",
    )  # fmt: skip
    return lifted(x, state, keys)


@pytest.mark.parametrize("mode", ["ema", "batch"])
def test_logits_and_statistics_are_the_modules_own(mode: str) -> None:
    module, state = network(mode=mode)
    for left in (True, False):
        model = models.from_equinox(eqx.nn.inference_mode(module, value=left), state)
        variables = model.init(None, None)
        logits, stats = jax.jit(model.apply)(variables, cases.X)
        cases.assert_close(logits, own(module, cases.X, state, train=False)[0])
        cases.assert_close(stats, variables.stats)
        logits, stats = model.apply(variables, cases.X, train=True, key=jax.random.key(0))
        expected, renewed = own(module, cases.X, state, train=True)
        cases.assert_close(logits, expected)
        cases.assert_close(stats["state"], renewed)
        types, given = ([a.dtype for a in jax.tree.leaves(s)] for s in (stats, variables.stats))
        assert types == given
    cases.assert_batch_statistics_over_axes(model, variables)


def test_dropout_is_drawn_in_training_alone() -> None:
    model = models.from_equinox(*network(rate=0.5))
    cases.assert_dropout_in_training_alone(model, model.init(None, None))
    # Without a state too, and each example with a mask of its own.
    plain = eqx.nn.Sequential(
        [eqx.nn.Linear(4, 3, key=jax.random.key(0)), eqx.nn.Dropout(0.5), eqx.nn.Lambda(jnp.abs)]
    )
    model = models.from_equinox(plain)
    variables = model.init(None, None)
    assert not variables.stats
    cases.assert_dropout_in_training_alone(model, variables)
    same = jnp.ones((6, 4))
    logits = model.apply(variables, same, train=True, key=jax.random.key(0))[0]
    assert np.abs(logits - logits[:1]).max() > 0.01
    with pytest.raises(RuntimeError, match="requires a key"):
        model.apply(variables, same, train=True)


def test_numbers_come_back_as_given_and_make_the_module_again() -> None:
    module, state = network()
    model = models.from_equinox(module, state)
    for seed in (0, 1):
        variables = model.init(jax.random.key(seed), cases.X)
        cases.assert_close(variables.params, eqx.filter(module, eqx.is_inexact_array))
    halved = variables._replace(params=jax.tree.map(lambda a: a / 2, variables.params))
    combined = eqx.combine(halved.params, module)
    expected = own(combined, cases.X, halved.stats["state"], train=False)[0]
    cases.assert_close(model.apply(halved, cases.X)[0], expected)


def test_a_module_without_state_of_its_own_starts_from_the_initial_one() -> None:
    module = Net(jax.random.key(0), mode="batch")
    model = models.from_equinox(module)
    expected = own(module, cases.X, eqx.nn.State(module), train=False)[0]
    cases.assert_close(model.apply(model.init(None, None), cases.X)[0], expected)
    without, _ = network()
    with pytest.raises(ValueError, match=r"pass the state that came with it, models\.from_equinox"):
        models.from_equinox(without)


def test_programs_are_kept_for_equal_modules() -> None:
    one, other = models.from_equinox(*network(0)), models.from_equinox(*network(1))
    assert one.apply is other.apply
    assert models.from_equinox(*network(0, rate=0.1)).apply is not one.apply


def test_a_run_knows_what_the_module_is_made_of() -> None:
    told = [contents(models.from_equinox(*network())) for _ in range(2)]
    assert json.dumps(told[0]) == json.dumps(told[1])
    assert "0x" not in json.dumps(told[0])
    for other in (network(1), network(rate=0.1)):
        assert contents(models.from_equinox(*other)) != told[0]


def test_mistakes_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TypeError, match="takes an Equinox module, got function"):
        models.from_equinox(lambda x: x)
    real = importlib.import_module

    def missing(name: str, *rest: Any) -> Any:
        if name == "equinox":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ImportError, match="pip install equinox"):
        models.from_equinox(network()[0])


@pytest.mark.slow
def test_an_equinox_network_trains_and_is_attacked_as_it_is(
    one_device: None, tmp_path: Any
) -> None:
    module, state = network(features=64, classes=10, rate=0.1, mode="batch")
    model = models.from_equinox(module, state)
    variables = cases.trained(model, tmp_path / "run").state.variables
    # The counter of steps came through as a whole number: one before, then those of two epochs.
    counted = variables.stats["state"].get(module.norm.batch_counter)
    assert counted.dtype == jnp.int32
    assert int(counted) == 1 + 2 * (256 // 32)
    clean, attacked = cases.accuracies(model, variables, folder=tmp_path / "evaluation")
    assert clean > attacked > 10
    made = cases.programs()
    final = eqx.combine(variables.params, module), variables.stats["state"]
    assert cases.accuracies(models.from_equinox(*final), None) == (clean, attacked)
    assert cases.programs() == made
    logits = own(final[0], cases.TEST, final[1], train=False)[0]
    assert clean == pytest.approx(100 * np.mean(logits.argmax(1) == cases.DIGITS.test.y))
    calm = eqx.nn.inference_mode(final[0])
    cases.assert_attacked_alike(model, variables, lambda x: calm(x, final[1])[0], cases.IMAGES)
    # A run that was interrupted goes on: its checkpoint has the module's shape.
    again = cases.trained(model, tmp_path / "run").state.variables
    cases.assert_close(again, variables, rtol=0, atol=0)


def test_a_plain_module_is_taken_as_it_is() -> None:
    module = eqx.nn.Conv2d(1, 10, 8, key=jax.random.key(0))
    taken = models.channels_first(models.binary(models.from_function(lambda x: x[:, 0, 0, 0])))
    assert taken.apply(taken.init(None, None), cases.IMAGES)[0].shape == (6, 2)
    flat = eqx.nn.Sequential([module, eqx.nn.Lambda(jnp.ravel)])
    model = models.channels_first(flat)
    expected = jax.vmap(flat)(jnp.moveaxis(cases.IMAGES, -1, 1))
    cases.assert_close(model.apply(model.init(None, None), cases.IMAGES)[0], expected)


@pytest.mark.slow
def test_two_devices_train_as_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    model = models.from_equinox(*network(features=64, classes=10, mode="batch"))
    cases.assert_two_devices_train_as_one(model, monkeypatch, tmp_path)
