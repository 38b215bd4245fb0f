"""Runs that start from given weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.core import freeze
from training.training_cases import CLASSES, SHAPE, Net, assert_close, images, normalized, sgd

from jaxrobust import defenses
from jaxrobust.training import Run, TrainState, fit, fitted, saved_variables
from jaxrobust.types import Variables

DATA = images()
SAMPLE = jnp.zeros((1, *SHAPE))


def train(folder: Path, **changes: Any) -> Run:
    settings: dict[str, Any] = {
        "model": normalized(),
        "defense": defenses.erm(),
        "dataset": DATA,
        "optimizer": sgd(),
        "epochs": 1,
        "batch_size": 16,
        "config": {},
        "progress": False,
        "run": folder,
        **changes,
    }
    return fit(0, **settings)


@pytest.fixture(scope="module")
def weights() -> dict[str, Any]:
    """As Flax makes them."""
    made = Net().init(jax.random.key(9), SAMPLE)
    return jax.tree.map(lambda a: np.asarray(a) + 0.25, dict(made))


def test_a_run_starts_from_the_weights_given(tmp_path: Path, weights: dict[str, Any]) -> None:
    # At a rate of 0 the parameters stay where they began.
    state = train(tmp_path, optimizer=optax.sgd(0.0), variables=weights).state
    assert_close(state.variables.params, weights["params"])


@pytest.mark.parametrize("form", ["variables", "flax", "frozen", "saved"])
def test_all_forms_of_the_same_weights_train_alike(
    tmp_path: Path, weights: dict[str, Any], form: str
) -> None:
    forms = {
        "variables": Variables(weights["params"], weights["batch_stats"]),
        "flax": weights,
        "frozen": freeze(weights),
        "saved": {"params": weights["params"], "stats": weights["batch_stats"]},
    }
    start = fitted(jax.eval_shape(normalized().init, jax.random.key(0), SAMPLE), forms[form])
    assert_close(start, Variables(weights["params"], weights["batch_stats"]))


def test_training_goes_on_from_another_run_and_leaves_its_weights_alone(tmp_path: Path) -> None:
    first = train(tmp_path / "first", epochs=2)
    kept = jax.tree.map(np.array, first.state.variables)
    second = train(tmp_path / "second", variables=first.state.variables)
    assert_close(first.state.variables, kept)
    assert second.history[0]["train_clean_loss"] < 0.9 * first.history[0]["train_clean_loss"]
    saved = saved_variables(tmp_path / "first", "last")
    again = train(tmp_path / "again", variables=saved)
    assert_close(again.state, second.state)


def test_other_weights_are_another_run(tmp_path: Path, weights: dict[str, Any]) -> None:
    train(tmp_path, variables=weights)
    finished = train(tmp_path, variables=jax.tree.map(np.array, weights))
    assert len(finished.history) == 1
    moved = {**weights, "params": jax.tree.map(lambda a: a + 1, weights["params"])}
    with pytest.raises(ValueError, match=r"other settings \(fit.variables: '\w+' there, '\w+' her"):
        train(tmp_path, variables=moved)
    with pytest.raises(ValueError, match=r"fit.variables: '\w+' there, 'nothing' here"):
        train(tmp_path)


def test_low_precision_weights_are_cast(weights: dict[str, Any]) -> None:
    half = jax.tree.map(lambda a: jnp.asarray(a, jnp.bfloat16), weights)
    like = jax.eval_shape(normalized().init, jax.random.key(0), SAMPLE)
    found = fitted(like, half)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {np.dtype(np.float32)}
    assert_close(found.params, jax.tree.map(np.float32, half["params"]))


def without(weights: dict[str, Any]) -> dict[str, Any]:
    params = {**weights["params"], "Dense_1": {"kernel": weights["params"]["Dense_1"]["kernel"]}}
    return {**weights, "params": params}


def whole_numbers(weights: dict[str, Any]) -> dict[str, Any]:
    return jax.tree.map(lambda a: a.astype(np.int32), weights)


def wide(weights: dict[str, Any]) -> dict[str, Any]:
    class Wide(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            x = nn.Dense(8, use_bias=False)(x.reshape(len(x), -1))
            x = nn.BatchNorm(use_running_average=True)(x)
            return nn.Dense(CLASSES + 1)(x)

    return dict(Wide().init(jax.random.key(0), SAMPLE))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (wide, r"params\['Dense_1'\]\['bias'\] is float32\[4\] in the model and float32\[5\] in w"),
        (
            without,
            r"params\['Dense_1'\]\['bias'\] is float32\[4\] in the model and missing in ",
        ),
        (lambda w: {"params": w["params"]}, r"stats\['BatchNorm_0'\]\['mean'\] is .* missing in"),
        (
            lambda w: {**w, "batch_stats": {**w["batch_stats"], "more": np.ones(3, np.float32)}},
            r"stats\['more'\] is missing in the model and float32\[3\] in what is given",
        ),
        (whole_numbers, r"\['bias'\] is float32\[\d\] in the model and int32\[\d\]"),
    ],
)
def test_weights_of_another_network_are_refused(
    tmp_path: Path, weights: dict[str, Any], change: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=f"the variables do not fit the model: .*{message}"):
        train(tmp_path / "run", variables=change(weights))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("given", "told"),
    [({"kernel": 1}, "got dict of kernel"), ([1.0], "got list"), (TrainState, "got type")],
)
def test_what_are_no_weights_is_refused(tmp_path: Path, given: Any, told: str) -> None:
    with pytest.raises(TypeError, match=rf"variables must be .* run\.state\.variables, .* {told}"):
        train(tmp_path, variables=given)
