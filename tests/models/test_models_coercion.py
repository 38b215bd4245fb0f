"""What evaluation and training take in a model's place, and what they say of anything else."""

from __future__ import annotations

from typing import Any

import bridge_cases as cases
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.core import freeze
from flax.training.train_state import TrainState

from jaxrobust import attacks, defenses, evaluation, models, training
from jaxrobust.threats import Linf
from jaxrobust.types import Model, Variables

W = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)
EXAMPLES = np.asarray(cases.X), np.arange(6) % 3


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        return nn.Dense(3)(nn.BatchNorm(use_running_average=not train)(x))


def linear(x: jax.Array) -> jax.Array:
    return x @ W


def evaluated(model: Any, variables: Any) -> evaluation.Report:
    return evaluation.evaluate(
        cases.KEY,
        model,
        variables,
        EXAMPLES,
        {"PGD": cases.PGD},
        batch_size=6,
        devices=jax.devices()[:1],
        progress=False,
    )


def collections(module: nn.Module) -> dict:
    return module.init(jax.random.key(0), cases.X)


def test_every_form_of_one_network_is_the_same_evaluation() -> None:
    held = collections(Linen())
    kernel, bias = held["params"]["Dense_0"].values()
    scale = 1 / np.sqrt(1 + 1e-5)

    class Nnx(nnx.Module):
        def __init__(self) -> None:
            self.kernel, self.bias = nnx.Param(kernel * scale), nnx.Param(bias)

        def __call__(self, x: jax.Array) -> jax.Array:
            return x @ self.kernel[...] + self.bias[...][None]

    variables = Variables(held["params"], held["batch_stats"])
    reports = [
        evaluated(*pair)
        for pair in (
            (models.from_linen(Linen()), variables),
            (Linen(), variables),
            (Linen(), held),
            (Linen(), freeze(held)),
            (lambda x: (x * scale) @ kernel + bias[None], None),
            (Nnx(), None),
            (Nnx(), ()),
        )
    ]
    assert 0 < reports[0].clean_accuracy < 100
    for other in reports[1:]:
        np.testing.assert_array_equal(other.clean, reports[0].clean)
        mine, first = other.attacks["PGD"], reports[0].attacks["PGD"]
        np.testing.assert_allclose(mine.margin, first.margin, atol=1e-5)


def test_a_model_is_itself_and_modules_are_made_once() -> None:
    model = models.from_linen(Linen())
    assert models.as_model(model) is model
    assert models.as_model(Linen()) == models.as_model(Linen())
    assert models.as_model(linear).apply is models.as_model(linear).apply

    class Predictor:
        def predict(self, x: jax.Array) -> jax.Array:
            return x

    held = Predictor()
    assert models.as_model(held.predict).apply is models.as_model(held.predict).apply
    assert models.as_model(held.predict).apply is not models.as_model(Predictor().predict).apply


def test_evaluation_compiles_once_for_one_network() -> None:
    traces = []

    def f(x: jax.Array) -> jax.Array:
        traces.append(x.shape)
        return x @ W

    evaluated(f, None)
    first = len(traces)
    assert first > 0
    evaluated(f, None)
    # Its shape is looked at again, and nothing else.
    assert len(traces) == first + 1


class Fake:
    """An object of another library, by the name of its module."""

    def __call__(self, x: Any) -> Any:
        return x


Fake.__module__ = "keras.src.models.model"


def flax_state() -> TrainState:
    params = collections(Linen())["params"]
    return TrainState.create(apply_fn=Linen().apply, params=params, tx=optax.sgd(0.1))


def own_state() -> training.TrainState:
    model = models.from_linen(Linen())
    return training.init_state(
        jax.random.key(0), model, defenses.erm(), optax.sgd(0.1), None, cases.X
    )


def own_run() -> training.Run:
    return training.Run(own_state(), [], own_state())


WRONG_MODELS = {
    "a string": ("resnet18", r"got str: write models\.build\('resnet18', num_classes\)"),
    "a class": (Linen, r"got the class Linen: pass an instance of it, Linen\(\.\.\.\)"),
    "an NNX class": (nnx.Linear, r"got the class Linear: pass an instance"),
    "Keras": (Fake(), "got Fake: with Keras' JAX backend, wrap `stateless_call`"),
    "a train state of Flax": (flax_state, r"TrainState: pass the linen module, and \{\"params\""),
    "a train state": (own_state, "TrainState: pass the network, and this state's `variables`"),
    "parameters": ({"params": 1}, "got dict: these are its numbers; pass the network first"),
    "variables": (Variables(1), "got Variables: these are its numbers"),
    "a pair of functions": ((linear, linear), r"models\.from_init_apply\(init, apply\)"),
    "model and variables": ((linear, {}), "one after the other"),
    "an attack": (cases.PGD, "this is an attack; the model and its variables come before"),
    "a number": (3.0, r"a model is a types\.Model, .* or a function .*; got float$"),
    "nothing": (None, "got NoneType$"),
}


@pytest.mark.parametrize("name", WRONG_MODELS)
def test_what_is_no_model_is_told_the_way(name: str, tmp_path: Any) -> None:
    wrong, told = WRONG_MODELS[name]
    wrong = wrong() if wrong in (flax_state, own_state) else wrong
    with pytest.raises(TypeError, match=told):
        evaluated(wrong, None)
    with pytest.raises(TypeError, match=told):
        training.fit(
            0, wrong, defenses.erm(), cases.DIGITS, optax.sgd(0.1), epochs=1, batch_size=32,
            run=tmp_path / "run", config={}, progress=False,
        )  # fmt: skip
    assert not (tmp_path / "run").exists()


def test_a_torch_module_is_told_the_way() -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match=r"got Linear: PyTorch's.*models\.from_torch_state_dict"):
        evaluated(torch.nn.Linear(4, 3), None)
    with pytest.raises(TypeError, match="got the class Linear: PyTorch's"):
        evaluated(torch.nn.Linear, None)


def test_equinox_is_taken_as_it_is() -> None:
    eqx = pytest.importorskip("equinox")
    module = eqx.nn.Linear(4, 3, use_bias=False, key=jax.random.key(0))
    module = eqx.tree_at(lambda m: m.weight, module, W.T)
    np.testing.assert_array_equal(evaluated(module, None).clean, evaluated(linear, None).clean)
    with pytest.raises(TypeError, match=r"models\.from_equinox\(module, state\)"):
        evaluated((module, 1), None)
    with pytest.raises(TypeError, match="got the module Linear as variables"):
        evaluated(linear, module)


WRONG_VARIABLES = {
    "none for linen": (Linen(), None, ValueError, "does not hold its own numbers"),
    "no outer dict": (
        Linen(),
        collections(Linen())["params"],
        ValueError,
        r"got a dict of \['BatchNorm_0', 'Dense_0'\] as variables: .* an outer dict",
    ),
    "other collections": (
        Linen(),
        {**collections(Linen()), "cache": {}},
        ValueError,
        r"collections \['cache'\]",
    ),
    "a train state of Flax": (Linen(), flax_state, TypeError, r"got TrainState .* its \.params"),
    "a train state": (Linen(), own_state, TypeError, r"got TrainState .*: pass its \.variables"),
    "a run": (
        Linen(),
        own_run,
        TypeError,
        r"got Run as variables: pass its \.state\.variables",
    ),
    "a module": (linear, nnx.Linear(4, 3, rngs=nnx.Rngs(0)), TypeError, "got the module Linear"),
    "a linen module": (Linen(), Linen(), TypeError, "got the module Linen as variables"),
    "numbers of a function": (linear, {"params": {"w": W}}, ValueError, "must be None; a network"),
}


@pytest.mark.parametrize("name", WRONG_VARIABLES)
def test_what_are_no_variables_is_told_the_way(name: str) -> None:
    model, variables, kind, told = WRONG_VARIABLES[name]
    variables = variables() if variables in (flax_state, own_state, own_run) else variables
    with pytest.raises(kind, match=told):
        evaluated(model, variables)


def test_numbers_of_another_form_are_the_owners_matter() -> None:
    def apply(variables: Any, x: jax.Array, **options: Any) -> Any:
        return x @ variables, ()

    model = Model(lambda key, x: W, apply)  # pyright: ignore[reportArgumentType]
    np.testing.assert_array_equal(evaluated(model, W).clean, evaluated(linear, None).clean)
    module = nnx.Linear(4, 3, use_bias=False, rngs=nnx.Rngs(0))
    module.kernel[...] = W
    called = Model(lambda key, x: module, lambda v, x, **options: (v(x), ()))  # pyright: ignore
    np.testing.assert_array_equal(evaluated(called, module).clean, evaluated(linear, None).clean)

    # A linen module without parameters has an empty dict.

    class Bare(nn.Module):
        def __call__(self, x: jax.Array) -> jax.Array:
            return x @ W

    np.testing.assert_array_equal(evaluated(Bare(), {}).clean, evaluated(linear, None).clean)


@pytest.mark.slow
def test_sanity_takes_a_function() -> None:
    examples = np.asarray(cases.TEST[:20]), cases.DIGITS.test.y[:20]
    w = jnp.asarray(np.random.default_rng(0).normal(size=(64, 10)), jnp.float32)

    def f(x: jax.Array) -> jax.Array:
        return x.reshape(len(x), -1) @ w

    found = evaluation.sanity(
        cases.KEY, f, None, examples, Linf(0.1), batch_size=20, steps=4, restarts=2, queries=2,
        devices=jax.devices()[:1], progress=False,
    )  # fmt: skip
    assert found.report is not None
    clean = np.asarray(f(jnp.asarray(examples[0]))).argmax(1) == examples[1]
    np.testing.assert_array_equal(found.report.clean, clean)


def test_a_transferred_attack_takes_the_model_made() -> None:
    model = models.as_model(linear)
    attack = attacks.transfer(cases.PGD, model, models.as_variables(model))
    found = evaluated(linear, None).attacks["PGD"]
    report = evaluation.evaluate(
        cases.KEY, linear, None, EXAMPLES, {"PGD": attack}, batch_size=6,
        devices=jax.devices()[:1], progress=False,
    )  # fmt: skip
    np.testing.assert_allclose(report.attacks["PGD"].margin, found.margin, atol=1e-5)
