"""Free adversarial training against its algorithm in NumPy, and what a step costs."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from training.training_cases import CLASSES, SIZE, assert_close, images, linear, sgd

from jaxrobust import defenses
from jaxrobust.defenses import Defense
from jaxrobust.threats import L2, Linf
from jaxrobust.training import fit, init_state, make_step, replicate, steps_per_epoch
from jaxrobust.types import Batch, Variables

DRAW = np.random.default_rng(0)
EPS, STEP, RATE, REPLAYS = 0.1, 0.08, 0.5, 3
X = DRAW.uniform(size=(2, 8, SIZE))
Y = DRAW.integers(0, CLASSES, (2, 8))
W = DRAW.normal(size=(SIZE, CLASSES)) / 4
FREE = defenses.free(Linf(EPS), shape=(8, SIZE), replays=REPLAYS, step_size=STEP)


def by_hand() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights, bias and perturbation after all replays of both batches."""
    w, b, delta = W, np.zeros(CLASSES), np.zeros((8, SIZE))
    for x, y in zip(X, Y, strict=True):
        for _ in range(REPLAYS):
            z = np.clip(x + delta, 0, 1)
            p = np.exp(z @ w + b)
            residual = p / p.sum(-1, keepdims=True) - np.eye(CLASSES)[y]
            rise = residual @ w.T
            w, b = w - RATE * z.T @ residual / len(x), b - RATE * residual.mean(0)
            delta = np.clip(delta + STEP * np.sign(rise), -EPS, EPS)
    return w, b, delta


def started(defense: Defense, optimizer: Any) -> Any:
    sample = jnp.zeros((1, SIZE), jnp.float32)
    state = init_state(jax.random.key(0), linear(), defense, optimizer, None, sample)
    params = {"w": jnp.asarray(W, jnp.float32), "b": jnp.zeros(CLASSES)}
    return state._replace(variables=Variables(params))


@pytest.mark.parametrize("count", [1, 4])
def test_free_is_its_algorithm_on_any_number_of_devices(count: int) -> None:
    optimizer, devices = optax.sgd(RATE), jax.devices()[:count]
    run = jax.pmap(make_step(linear(), FREE, optimizer), axis_name="devices", devices=devices)
    state = replicate(started(FREE, optimizer), devices)
    for i in range(2 * REPLAYS):
        x, y = X[i // REPLAYS], Y[i // REPLAYS]
        batch = Batch(jnp.asarray(x, jnp.float32), jnp.asarray(y), jnp.arange(8))
        state, _ = run(state, jax.tree.map(lambda a: a.reshape(count, -1, *a.shape[1:]), batch))
    w, b, delta = by_hand()
    for device in range(count):
        np.testing.assert_allclose(state.defense_state[device], delta, atol=1e-6)
        np.testing.assert_allclose(state.variables.params["w"][device], w, atol=1e-5)
        np.testing.assert_allclose(state.variables.params["b"][device], b, atol=1e-5)


def test_a_replay_costs_one_backward_pass() -> None:
    """As much arithmetic as a clean step, whose single pass has no gradient in the input."""
    optimizer = optax.sgd(RATE)
    batch = Batch(jnp.zeros((1, 8, SIZE)), jnp.zeros((1, 8), int), jnp.arange(8)[None])

    def work(defense: Defense) -> float:
        step = jax.pmap(make_step(linear(), defense, optimizer), axis_name="devices")
        state = replicate(started(defense, optimizer), jax.devices()[:1])
        jaxpr = str(jax.make_jaxpr(step)(state, batch))
        return jaxpr.count("dot_general")

    pgd = defenses.pgd(Linf(EPS), step_size=STEP, steps=1)
    # Forward and parameter gradient; one product more gives the gradient in the input.
    assert work(defenses.erm()) == 2
    assert work(FREE) == 3
    assert work(pgd) > 3


def test_batches_are_replayed_and_the_perturbation_survives_a_kill(tmp_path: Path) -> None:
    data = images()
    defense = defenses.free(L2(0.5), shape=(16, *data.shape), replays=2)
    assert steps_per_epoch(data, 16, replays=2) == 8

    calls = itertools.count(1)

    def dies(variables: Variables) -> dict[str, float]:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return {}

    def train(folder: Path) -> Any:
        return fit(
            0, linear(), defense, data, sgd(), epochs=2, batch_size=16, run=folder, config={},
            validate=dies, progress=False,
        )  # fmt: skip

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed")
    alone = train(tmp_path / "alone")
    assert_close(train(tmp_path / "killed").state, alone.state)
    assert int(alone.state.step) == 16
    norms = np.linalg.norm(np.asarray(alone.state.defense_state).reshape(16, -1), axis=1)
    assert (norms <= 0.5 * (1 + 1e-6)).all()
    assert norms.max() > 0.4


def test_mistakes_name_the_value(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"shape must be that of a batch.* got \(8,\)"):
        defenses.free(Linf(EPS), shape=(8,))
    with pytest.raises(ValueError, match="shape must be a whole number of at least 1, got 0"):
        defenses.free(L2(0.5), shape=(8, 0))
    with pytest.raises(ValueError, match="replays"):
        defenses.free(Linf(EPS), shape=(8, SIZE), replays=0)
    other = defenses.free(Linf(EPS), shape=(8, *images().shape))
    with pytest.raises(ValueError, match=r"free was built for batches of shape \(8, 4, 4, 1\)"):
        fit(
            0, linear(), other, images(), sgd(), epochs=1, batch_size=16, run=tmp_path, config={},
            progress=False,
        )  # fmt: skip
