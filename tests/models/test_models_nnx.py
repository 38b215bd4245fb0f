"""The bridge from NNX: against the modules' own passes, in both modes, trained and attacked."""

from __future__ import annotations

import json
from typing import Any

import bridge_cases as cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxrobust import models
from jaxrobust.contents import contents
from jaxrobust.types import Variables


class Net(nnx.Module):
    """Dense, batch normalization, dropout, and layers in a list."""

    def __init__(
        self, features: int = 4, rate: float = 0.0, classes: int = 3, *, rngs: nnx.Rngs
    ) -> None:
        self.first = nnx.Linear(features, 8, rngs=rngs)
        self.norm = nnx.BatchNorm(8, momentum=0.9, rngs=rngs)
        self.scale = nnx.LayerNorm(8, rngs=rngs)
        self.dropout = nnx.Dropout(rate, rngs=rngs)
        self.rest = nnx.List([nnx.Linear(8, 8, rngs=rngs), nnx.Linear(8, classes, rngs=rngs)])

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.scale(self.norm(self.first(x.reshape(len(x), -1))))
        x = self.dropout(nnx.relu(x))
        for layer in self.rest:
            x = layer(x)
        return x


def network(seed: int = 0, **options: Any) -> Net:
    """With statistics away from their start."""
    made = Net(rngs=nnx.Rngs(seed), **options)
    made.norm.mean[...] += 0.3
    return made


def test_logits_are_the_modules_own_in_whichever_mode_it_was_left() -> None:
    module = network(rate=0.5)
    copy = nnx.clone(module)
    copy.eval()
    expected = copy(cases.X)
    for leave in (module.train, module.eval):
        leave()
        before = nnx.to_pure_dict(nnx.state(module, nnx.Not(nnx.RngState)))
        model = models.from_nnx(module)
        variables = model.init(jax.random.key(0), cases.X)
        logits, stats = model.apply(variables, cases.X)
        cases.assert_close(logits, expected)
        assert stats is variables.stats
        cases.assert_dropout_in_training_alone(model, variables)
        # The module itself stays as it was.
        jax.tree.map(
            np.testing.assert_array_equal,
            before,
            nnx.to_pure_dict(nnx.state(module, nnx.Not(nnx.RngState))),
        )
        assert module.dropout.deterministic == (leave == module.eval)
        assert module.norm.axis_name is None


def test_training_mode_renews_the_statistics_as_the_module_does() -> None:
    module = network()
    model = models.from_nnx(module)
    variables = model.init(None, None)
    logits, stats = model.apply(variables, cases.X, train=True, key=jax.random.key(0))
    module.train()
    cases.assert_close(logits, module(cases.X))
    cases.assert_close(stats, nnx.to_pure_dict(nnx.state(module, nnx.BatchStat)))
    cases.assert_batch_statistics_over_axes(model, variables)


def test_a_function_draws_the_parameters_anew() -> None:
    model = models.from_nnx(lambda rngs: Net(rngs=rngs))
    drawn = [model.init(jax.random.key(seed), cases.X) for seed in (0, 0, 1)]
    kernels = [d.params["first"]["kernel"] for d in drawn]
    cases.assert_close(kernels[0], Net(rngs=nnx.Rngs(jax.random.key(0))).first.kernel[...])
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert np.abs(kernels[0] - kernels[2]).max() > 0.1
    # A module, not.
    module = Net(rngs=nnx.Rngs(5))
    given = models.from_nnx(module)
    for seed in (0, 1):
        held = given.init(jax.random.key(seed), cases.X).params["first"]["kernel"]
        np.testing.assert_array_equal(held, module.first.kernel[...])


def test_programs_are_kept_for_equal_modules() -> None:
    first, second = models.from_nnx(network(0)), models.from_nnx(network(1))
    assert first.apply is second.apply
    assert first.apply is models.from_nnx(lambda rngs: Net(rngs=rngs)).apply
    module = network(0)
    module.train()
    assert models.from_nnx(module).apply is first.apply
    assert models.from_nnx(network(0, rate=0.1)).apply is not first.apply


def test_a_run_knows_what_the_module_is_made_of() -> None:
    told = [contents(models.from_nnx(network(seed, rate=rate))) for seed, rate in ((0, 0), (0, 0))]
    assert json.dumps(told[0]) == json.dumps(told[1])
    assert "0x" not in json.dumps(told[0])
    for other in (network(1), network(0, rate=0.1)):
        assert contents(models.from_nnx(other)) != told[0]


class Mode(nnx.Module):
    """Told by a keyword, as linen modules are."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first = nnx.Linear(4, 3, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        return self.dropout(self.first(x), deterministic=not train)


def test_a_keyword_of_the_call_is_found() -> None:
    model = models.from_nnx(Mode)
    variables = model.init(jax.random.key(0), cases.X)
    cases.assert_dropout_in_training_alone(model, variables)
    with pytest.raises(ValueError, match=r"Mode.__call__ takes no keyword mode='learn'"):
        models.from_nnx(Mode, mode="learn")


class Watched(nnx.Module):
    """Leaves intermediates behind, and has a counter of its own."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first = nnx.Linear(4, 3, rngs=rngs)
        self.calls = nnx.Variable(jnp.zeros((), jnp.int32))

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.first(x)
        self.sow(nnx.Intermediate, "seen", x)
        self.calls[...] += 1
        return x


@pytest.mark.filterwarnings("ignore:Using 'Module.sow")
def test_other_variables_are_state_and_intermediates_are_not() -> None:
    module = Watched(nnx.Rngs(0))
    module(cases.X)
    model = models.from_nnx(module)
    variables = model.init(None, None)
    assert {name: int(leaf) for name, leaf in variables.stats.items()} == {"calls": 1}
    logits, stats = model.apply(variables, cases.X, train=True)
    cases.assert_close(logits, module.first(cases.X))
    assert {name: int(leaf) for name, leaf in stats.items()} == {"calls": 2}


class Centered(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.center = nnx.BatchStat(jnp.zeros(4))

    def __call__(self, x: jax.Array) -> jax.Array:
        mean = x.mean(0)
        if getattr(self, "axis_name", None):
            mean = jax.lax.pmean(mean, self.axis_name)
        self.center[...] = mean
        return x - mean[None]


class Mindful(Centered):
    def __init__(self, rngs: nnx.Rngs) -> None:
        super().__init__(rngs)
        self.axis_name = None


def test_statistics_that_cannot_be_averaged_are_refused_with_the_lines_to_add() -> None:
    model = models.from_nnx(Centered)
    variables = model.init(jax.random.key(0), cases.X)
    with pytest.raises(ValueError, match="Centered at the top has batch statistics") as caught:
        model.apply(variables, cases.X, train=True, axes=("devices",))
    lines = [line.strip() for line in str(caught.value).splitlines()]
    assert lines[1] == "self.axis_name = None"
    assert lines[3:] == ["if self.axis_name:", "mean = jax.lax.pmean(mean, self.axis_name)"]
    mindful = models.from_nnx(Mindful)
    cases.assert_batch_statistics_over_axes(mindful, mindful.init(jax.random.key(0), cases.X))


def test_mistakes_are_told() -> None:
    with pytest.raises(TypeError, match=r"a function of nnx\.Rngs that makes one; got str"):
        models.from_nnx("net")  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="got a function that makes int"):
        models.from_nnx(lambda rngs: 3)  # pyright: ignore[reportArgumentType]
    model = models.from_nnx(network(rate=0.5))
    with pytest.raises(ValueError, match="training mode needs a `key`"):
        model.apply(model.init(None, None), cases.X, train=True)


@pytest.mark.slow
def test_an_nnx_network_trains_and_is_attacked_as_it_is(one_device: None, tmp_path: Any) -> None:
    module = network(features=64, rate=0.1, classes=10)
    before = nnx.to_pure_dict(nnx.state(module, nnx.Param))
    variables = cases.trained(module, tmp_path / "run").state.variables
    assert isinstance(variables, Variables)
    # A run that was interrupted goes on: its checkpoint has the parameters' shape.
    again = cases.trained(module, tmp_path / "run").state.variables
    cases.assert_close(again, variables, rtol=0, atol=0)
    cases.assert_close(before, nnx.to_pure_dict(nnx.state(module, nnx.Param)), rtol=0, atol=0)
    clean, attacked = cases.accuracies(module, variables)
    assert clean > attacked > 10
    made = cases.programs()
    # Trained numbers in the module itself: evaluated as it is, by the same programs.
    nnx.update(module, variables.params, variables.stats)
    assert cases.accuracies(module, None) == (clean, attacked)
    assert cases.programs() == made
    module.eval()
    assert clean == pytest.approx(
        100 * np.mean(module(cases.TEST).argmax(1) == cases.DIGITS.test.y)
    )
    cases.assert_attacked_alike(
        models.from_nnx(module), variables, lambda x: module(x[None])[0], cases.IMAGES
    )


@pytest.mark.slow
def test_two_devices_train_as_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    model = models.from_nnx(network(features=64, classes=10))
    cases.assert_two_devices_train_as_one(model, monkeypatch, tmp_path)
