"""Models of plain functions and of pairs (init, apply): Stax's form, and Haiku's where it is."""

from __future__ import annotations

from typing import Any

import bridge_cases as cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.example_libraries import stax

from jaxrobust import defenses, evaluation, models, training
from jaxrobust.types import Variables

W = jnp.asarray(np.random.default_rng(1).normal(size=(4, 3)), jnp.float32)


def batched(x: jax.Array) -> jax.Array:
    return jnp.tanh(x) @ W


def single(x: jax.Array) -> jax.Array:
    return (jnp.tanh(x).reshape(1, -1) @ W).reshape(-1)


def test_functions_of_batches_and_of_one_example_are_the_same_model() -> None:
    for model in (
        models.from_function(batched),
        models.from_function(single, batched=False),
        models.from_function(jax.jit(batched)),
    ):
        variables = model.init(None, None)
        assert not jax.tree.leaves(variables)
        for train in (False, True):
            logits, stats = model.apply(variables, cases.X, train=train, key=None, axes=("unused",))
            cases.assert_close(logits, np.tanh(cases.X) @ W)
            assert stats is variables.stats
        cases.assert_attacked_alike(model, variables, single)


def test_a_function_of_the_other_kind_is_told() -> None:
    x = jnp.ones((2, 2, 2))
    model = models.from_function(lambda x: x.reshape(-1)[:3])
    with pytest.raises(ValueError, match=r"\[2, K\] for a batch \(2, 2, 2\), got .*batched=False"):
        model.apply(model.init(None, None), x)
    examples = np.asarray(cases.X), np.zeros(6, int)
    with pytest.raises(ValueError, match=r"got shape \(\); .* models\.binary"):
        evaluation.evaluate(cases.KEY, lambda x: x[:, 0], None, examples, {}, batch_size=3)
    with pytest.raises(TypeError, match="takes a function, got float"):
        models.from_function(1.0)  # pyright: ignore[reportArgumentType]


def test_a_plain_function_is_evaluated_and_is_not_trained(tmp_path: Any) -> None:
    w = jnp.asarray(np.random.default_rng(0).normal(size=(64, 10)), jnp.float32)

    def f(x: jax.Array) -> jax.Array:
        return x.reshape(len(x), -1) @ w

    clean, attacked = cases.accuracies(f, None)
    assert clean == pytest.approx(100 * np.mean(f(cases.TEST).argmax(1) == cases.DIGITS.test.y))
    assert clean > attacked
    made = cases.programs()
    assert cases.accuracies(f, ()) == cases.accuracies(models.from_function(f), None)
    assert cases.programs() == made
    with pytest.raises(ValueError, match="no parameters to train"):
        training.fit(
            0, f, defenses.erm(), cases.DIGITS, None, epochs=1, batch_size=32,  # pyright: ignore
            run=tmp_path / "run", config={}, progress=False,
        )  # fmt: skip
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_other_takers_of_a_model_take_a_function() -> None:
    w = jnp.asarray(np.random.default_rng(0).normal(size=(64, 10)), jnp.float32)

    def f(x: jax.Array) -> jax.Array:
        return x.reshape(len(x), -1) @ w

    held = Variables(w)
    pair = models.from_init_apply(lambda key, x: w, lambda p, x: x.reshape(len(x), -1) @ p)
    x, y = cases.DIGITS.test.x[:20], cases.DIGITS.test.y[:20]
    options: dict[str, Any] = {"batch_size": 20, "devices": jax.devices()[:1]}
    flags = [
        evaluation.audit(model, v, (x, y), key=cases.KEY, **options)
        for model, v in ((f, None), (pair, held))
    ]
    assert flags[0] == flags[1]
    options["progress"] = False
    curves = [
        evaluation.curve(cases.KEY, model, v, (x, y), cases.PGD, [0.0, 0.05], **options)
        for model, v in ((f, None), (pair, held))
    ]
    np.testing.assert_array_equal(curves[0].robust, curves[1].robust)
    proved = [
        evaluation.certified(model, v, (x, y), cases.PGD.threat, **options)
        for model, v in ((f, None), (pair, held))
    ]
    np.testing.assert_allclose(proved[0].lower, proved[1].lower, atol=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("default_promotion")
def test_a_stax_pair_trains_and_is_attacked(one_device: None, tmp_path: Any) -> None:
    init, apply = stax.serial(stax.Flatten, stax.Dense(16), stax.Relu, stax.Dense(10))
    model = models.from_init_apply(lambda key, x: init(key, x.shape)[1], apply)
    drawn = model.init(jax.random.key(4), cases.IMAGES)
    cases.assert_close(drawn.params, init(jax.random.key(4), (6, 8, 8, 1))[1])
    variables = cases.trained(model, tmp_path / "run").state.variables
    logits = apply(variables.params, cases.TEST)
    cases.assert_close(model.apply(variables, cases.TEST)[0], logits)
    clean, attacked = cases.accuracies(model, variables)
    assert clean == pytest.approx(100 * np.mean(logits.argmax(1) == cases.DIGITS.test.y))
    assert clean > attacked > 10
    cases.assert_attacked_alike(
        model, variables, lambda x: apply(variables.params, x[None])[0], cases.IMAGES
    )


def center(state: dict, x: jax.Array, train: bool, axes: tuple[str, ...]) -> Any:
    """A moving mean, subtracted."""
    mean = x.mean(0)
    mean = jax.lax.pmean(mean, axes) if axes else mean
    mean = 0.9 * state["mean"] + 0.1 * mean if train else state["mean"]
    return x - mean[None], {"mean": mean}


def test_the_arguments_come_in_haikus_order() -> None:
    def init(key: Any, x: jax.Array, is_training: bool, over: Any) -> Any:
        assert is_training
        assert over == ()
        return {"w": W}, {"mean": jnp.zeros(4)}

    def apply(params: Any, state: Any, key: Any, x: Any, is_training: bool, over: Any) -> Any:
        x, state = center(state, x, is_training, over)
        keep = 1.0 if not is_training else jax.random.bernoulli(key, 0.5, (4,)).astype(x.dtype)
        return (x * jnp.broadcast_to(keep, (1, 4))) @ params["w"], state

    model = models.from_init_apply(
        init, apply, rng=True, stateful=True, mode="is_training", axes="over"
    )
    variables = model.init(jax.random.key(0), cases.X)
    assert variables == Variables({"w": W}, variables.stats)
    cases.assert_close(model.apply(variables, cases.X)[0], cases.X @ W)
    cases.assert_dropout_in_training_alone(model, variables)
    cases.assert_batch_statistics_over_axes(model, variables)


def test_a_mode_of_the_other_sense() -> None:
    def apply(params: Any, x: jax.Array, *, deterministic: bool) -> jax.Array:
        return x @ params if deterministic else -x @ params

    def init(key: Any, x: Any, *, deterministic: bool) -> jax.Array:
        assert not deterministic
        return W

    model = models.from_init_apply(init, apply, mode="deterministic")
    variables = model.init(jax.random.key(0), cases.X)
    cases.assert_close(model.apply(variables, cases.X)[0], cases.X @ W)
    cases.assert_close(model.apply(variables, cases.X, train=True)[0], -cases.X @ W)


def test_a_state_that_cannot_be_averaged_is_refused_with_the_lines_to_add() -> None:
    model = models.from_init_apply(
        lambda key, x: (W, {}), lambda params, state, x: (x @ params, state), stateful=True
    )
    variables = model.init(jax.random.key(0), cases.X)
    model.apply(variables, cases.X, train=True)
    with pytest.raises(ValueError, match=r"axes \('devices',\)(.|\n)*cross_replica_axis=axes"):
        model.apply(variables, cases.X, train=True, axes=("devices",))
    with pytest.raises(TypeError, match="takes two functions, got dict as `apply`"):
        models.from_init_apply(batched, {})  # pyright: ignore[reportArgumentType]


@pytest.mark.slow
@pytest.mark.usefixtures("default_promotion")
def test_haiku(one_device: None, tmp_path: Any) -> None:
    hk = pytest.importorskip("haiku")

    def plain(x: jax.Array) -> jax.Array:
        return hk.nets.MLP([8, 3])(x)

    network = hk.without_apply_rng(hk.transform(plain))
    model = models.from_init_apply(*network)
    variables = model.init(jax.random.key(0), cases.X)
    cases.assert_close(variables.params, network.init(jax.random.key(0), cases.X))
    expected = network.apply(variables.params, cases.X)
    cases.assert_close(model.apply(variables, cases.X)[0], expected)

    def full(x: jax.Array, is_training: bool, axes: tuple[str, ...], rate: float = 0.0) -> Any:
        x = hk.Linear(16)(x.reshape(len(x), -1))
        norm = hk.BatchNorm(True, True, 0.9, cross_replica_axis=axes or None)
        x = jax.nn.relu(norm(x, is_training))
        x = hk.dropout(hk.next_rng_key(), rate, x) if is_training else x
        return hk.Linear(10)(x)

    options: Any = {"rng": True, "stateful": True, "mode": "is_training", "axes": "axes"}
    network = hk.transform_with_state(full)
    model = models.from_init_apply(*network, **options)
    variables = model.init(jax.random.key(0), cases.X)
    cases.assert_batch_statistics_over_axes(model, variables)
    key = jax.random.key(1)
    logits, renewed = network.apply(
        variables.params, variables.stats, key, cases.X, is_training=True, axes=()
    )
    found = model.apply(variables, cases.X, train=True, key=key)
    cases.assert_close(found, (logits, renewed))
    dropping = models.from_init_apply(
        *hk.transform_with_state(lambda *args, **kwargs: full(*args, **kwargs, rate=0.5)), **options
    )
    cases.assert_dropout_in_training_alone(dropping, variables)

    variables = cases.trained(model, tmp_path / "run").state.variables
    clean, attacked = cases.accuracies(model, variables)
    assert clean > attacked > 10
    cases.assert_attacked_alike(
        model,
        variables,
        lambda x: network.apply(*variables, None, x[None], is_training=False, axes=())[0][0],
        cases.IMAGES,
    )
