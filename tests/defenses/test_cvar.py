"""CVaR training against its algorithm in NumPy, and its threshold against quantiles."""

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

from jaxrobust import attacks, defenses
from jaxrobust.defenses.cvar import tail_mean
from jaxrobust.threats import Linf
from jaxrobust.training import fit, init_state, make_step, replicate
from jaxrobust.types import Array, Batch, Variables

DRAW = np.random.default_rng(0)
EPS, RATE, SHARE, CLIMB, BATCHES = 0.1, 0.2, 0.25, 0.6, 6
X = DRAW.uniform(size=(BATCHES, 8, SIZE))
Y = DRAW.integers(0, CLASSES, (BATCHES, 8))
W = DRAW.normal(size=(SIZE, CLASSES)) / 2
ONE_STEP = {"step_size": EPS, "steps": 1, "start": attacks.clean}
CVAR = defenses.cvar(
    attacks.pgd(Linf(EPS), **ONE_STEP, keep="last"), share=SHARE, learning_rate=CLIMB
)


def probabilities(z: np.ndarray, w: np.ndarray, b: np.ndarray) -> np.ndarray:
    p = np.exp(z @ w + b)
    return p / p.sum(-1, keepdims=True)


def by_hand() -> tuple[np.ndarray, np.ndarray, list[float]]:
    """Weights and bias after one SGD step on each batch, and the thresholds that each one saw."""
    w, b, t, seen = W, np.zeros(CLASSES), 0.0, []
    for x, y in zip(X, Y, strict=True):
        target = np.eye(CLASSES)[y]
        z = np.clip(x + EPS * np.sign((probabilities(x, w, b) - target) @ w.T), 0, 1)
        p = probabilities(z, w, b)
        above = -np.log((p * target).sum(-1)) > t
        residual = (p - target) * above[:, None] / (SHARE * len(x))
        seen.append(t)
        w, b = w - RATE * z.T @ residual, b - RATE * residual.sum(0)
        t -= CLIMB * (1 - above.mean() / SHARE)
    return w, b, [*seen, t]


@pytest.mark.parametrize("count", [1, 4])
def test_cvar_is_its_algorithm_on_any_number_of_devices(count: int) -> None:
    optimizer, devices = optax.sgd(RATE), jax.devices()[:count]
    run = jax.pmap(make_step(linear(), CVAR, optimizer), axis_name="devices", devices=devices)
    sample = jnp.zeros((1, SIZE), jnp.float32)
    state = init_state(jax.random.key(0), linear(), CVAR, optimizer, None, sample)
    params = {"w": jnp.asarray(W, jnp.float32), "b": jnp.zeros(CLASSES)}
    state = replicate(state._replace(variables=Variables(params)), devices)
    seen = []
    for x, y in zip(X, Y, strict=True):
        batch = Batch(jnp.asarray(x, jnp.float32), jnp.asarray(y), jnp.arange(8))
        shards = jax.tree.map(lambda a: a.reshape(count, -1, *a.shape[1:]), batch)
        state, metrics = run(state, shards)
        seen.append(float(metrics["threshold"][0]))
    w, b, thresholds = by_hand()
    # It rises while many losses are above it, and comes down again.
    assert np.diff(thresholds).min() < 0 < np.diff(thresholds).max()
    np.testing.assert_allclose(seen, thresholds[:-1], atol=1e-6)
    for device in range(count):
        np.testing.assert_allclose(state.defense_state[device], thresholds[-1], atol=1e-6)
        np.testing.assert_allclose(state.variables.params["w"][device], w, atol=1e-5)
        np.testing.assert_allclose(state.variables.params["b"][device], b, atol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 5, 10])
def test_the_bound_is_tight_at_the_quantile(count: int) -> None:
    """Its smallest value over thresholds is the mean of the largest losses."""
    each = np.sort(DRAW.exponential(size=10))
    share, largest = count / 10, each[10 - count :].mean()
    with jax.enable_x64(True):
        bound = jax.vmap(lambda t: tail_mean(jnp.asarray(each), t, share))
        np.testing.assert_allclose(bound(jnp.asarray(each))[10 - count], largest, rtol=1e-12)
        # Wherever the threshold is, the largest losses are bounded.
        assert (bound(jnp.linspace(-1.0, 6.0, 50)) >= largest - 1e-12).all()


def test_gradient_steps_bring_the_threshold_to_the_quantile() -> None:
    each = jnp.asarray(DRAW.exponential(size=40), jnp.float32)
    slope = jax.grad(lambda t: tail_mean(each, t, 0.3))

    # Scaled down, for the step to be shorter than the gaps between losses.
    def step(i: Array, threshold: Array) -> Array:
        return CVAR.ascend_state(threshold, jnp.float32(0.005) * slope(threshold))

    threshold = jax.lax.fori_loop(0, 1500, step, CVAR.init())
    above = float(jnp.mean(each > threshold))
    assert abs(above - 0.3) <= 1 / 40


def test_the_threshold_survives_a_kill(tmp_path: Path) -> None:
    data = images()

    calls = itertools.count(1)

    def dies(variables: Variables) -> dict[str, float]:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return {}

    def train(folder: Path) -> Any:
        return fit(
            0, linear(), CVAR, data, sgd(), epochs=2, batch_size=16, run=folder, config={},
            validate=dies, progress=False,
        )  # fmt: skip

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed")
    alone = train(tmp_path / "alone")
    assert_close(train(tmp_path / "killed").state, alone.state)
    assert float(alone.state.defense_state) > 0
    assert "train_threshold" in alone.history[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"share": 0.0}, "share must be finite and above 0, got 0"),
        ({"share": 1.5}, r"share is a share, at most 1, got 1\.5"),
        ({"learning_rate": 0.0}, "learning_rate must be finite and above 0, got 0"),
        ({"attack_mode": "tain"}, "attack_mode 'tain'; did you mean 'train'"),
        ({"ramp": 2.0}, r"ramp is a share, at most 1, got 2\.0"),
    ],
)
def test_mistakes_name_the_value(changes: dict[str, Any], message: str) -> None:
    settings = {"share": SHARE, "learning_rate": CLIMB, **changes}
    with pytest.raises(ValueError, match=message):
        defenses.cvar(attacks.pgd(Linf(EPS), **ONE_STEP, keep="last"), **settings)
