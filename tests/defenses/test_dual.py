"""Training on bounds: closed forms, finite differences, sampled points and a short run."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training.training_cases import CLASSES, SIZE, images, linear, normalized

from jaxrobust import defenses, losses
from jaxrobust.data import to_float
from jaxrobust.duals.bounds import margin_bounds
from jaxrobust.threats import Linf
from jaxrobust.types import Array, Batch, Model, PyTree, Variables

EPS = 0.1
DRAW = np.random.default_rng(0)
W, B = DRAW.normal(size=(SIZE, CLASSES)), DRAW.normal(size=CLASSES)
X, Y = DRAW.uniform(size=(6, SIZE)), DRAW.integers(0, CLASSES, 6)
ONEHOT = np.eye(CLASSES)[Y]


def hidden(params: PyTree, x: Array) -> Array:
    """Two hidden layers of ReLUs, one example."""
    for w, b in params[:-1]:
        x = jax.nn.relu(x @ w + b)
    w, b = params[-1]
    return x @ w + b


def two_layers() -> Model:
    def apply(variables: Variables, x: Array, **options: object) -> tuple[Array, PyTree]:
        del options
        return jax.vmap(partial(hidden, variables.params))(x), variables.stats

    return Model(lambda key, x: None, apply)


SIZES = (SIZE, 7, 6, CLASSES)
PARAMS = [
    (DRAW.normal(size=(n, m)) / n**0.5, 0.3 * DRAW.normal(size=m))
    for n, m in itertools.pairwise(SIZES)
]


def batch_of(dtype: Any = None) -> Batch:
    return Batch(jnp.asarray(X, dtype), jnp.asarray(Y, int), jnp.arange(len(Y)))


def loss_of(
    defense: defenses.Defense, model: Model
) -> Callable[..., tuple[Array, defenses.LossOutput]]:
    """(params, progress, key, batch) -> (loss, aux), compiled."""

    @jax.jit
    def loss(
        params: PyTree, progress: Any = 1.0, key: Any = None, batch: Batch | None = None
    ) -> Any:
        context = defenses.TrainContext(progress=progress)
        key = jax.random.key(0) if key is None else key
        return defense.loss(key, model, Variables(params), batch or batch_of(), context)

    return loss


def cross_entropy(z: np.ndarray) -> tuple[float, np.ndarray]:
    """The batch mean, and its gradient in the logits."""
    logp = z - z.max(-1, keepdims=True)
    logp = logp - np.log(np.exp(logp).sum(-1, keepdims=True))
    return -(ONEHOT * logp).sum() / len(z), (np.exp(logp) - ONEHOT) / len(z)


def by_hand(radius: float, share: float) -> tuple[float, np.ndarray, dict[str, float]]:
    """Loss, gradient in W and metrics of the affine classifier.

    Over a linf ball its f_j - f_y rises by radius * ||w_j - w_y||_1.
    """
    z = X @ W + B
    rows = W.T[None] - W.T[Y][:, None]
    robust = z - z[np.arange(len(Y)), Y][:, None] + radius * np.abs(rows).sum(-1)
    clean, clean_slope = cross_entropy(z)
    worst, slope = cross_entropy(robust)
    moved = X[:, None] + radius * np.sign(rows)
    gradient = np.einsum("bj,bjd->dj", slope, moved)
    gradient -= np.einsum("bj,bjd->bd", slope, moved).T @ ONEHOT
    others = np.where(ONEHOT == 1, -np.inf, robust)
    metrics = {
        "clean_loss": clean,
        "clean_accuracy": 100 * np.mean(z.argmax(-1) == Y),
        "robust_loss": worst,
        "robust_error": 100 * np.mean(others.max(-1) >= 0),
    }
    value = share * clean + (1 - share) * worst
    return value, share * X.T @ clean_slope + (1 - share) * gradient, metrics


def test_affine_classifiers_have_the_closed_form_all_along_the_ramp() -> None:
    schedule = {"ramp": 0.5, "first_radius": 0.02, "clean_weight": 0.3, "first_clean_weight": 0.7}
    loss = loss_of(defenses.dual(Linf(EPS), **schedule), linear())
    run = jax.jit(jax.value_and_grad(loss, has_aux=True))
    for progress, radius, share in (
        (0, 0.02, 0.7),
        (0.125, 0.04, 0.6),
        (0.5, EPS, 0.3),
        (1, EPS, 0.3),
    ):
        value, gradient, metrics = by_hand(radius, share)
        with jax.enable_x64(True):
            params = {"w": jnp.asarray(W), "b": jnp.asarray(B)}
            (found, aux), slopes = run(params, float(progress))
        np.testing.assert_allclose(found, value, rtol=1e-9)
        np.testing.assert_allclose(slopes["w"], gradient, rtol=1e-7, atol=1e-10)
        assert set(aux.metrics) == set(metrics)
        for name, expected in metrics.items():
            np.testing.assert_allclose(aux.metrics[name], expected, rtol=1e-6, err_msg=name)
    assert run._cache_size() == 1


def interval_loss(params: PyTree) -> float:
    """Interval bounds by hand, the last layer joined with the margins (Gowal et al. 2018)."""
    low, high = X - EPS, X + EPS
    for w, b in params[:-1]:
        middle, reach = (low + high) / 2 @ w + b, (high - low) / 2 @ np.abs(w)
        low, high = np.maximum(middle - reach, 0), np.maximum(middle + reach, 0)
    w, b = params[-1]
    rows = w.T[None] - w.T[Y][:, None]
    middle = np.einsum("bjd,bd->bj", rows, (low + high) / 2) + b - b[Y][:, None]
    reach = np.einsum("bjd,bd->bj", np.abs(rows), (high - low) / 2)
    return cross_entropy(middle + reach)[0]


def worst_sampled(params: PyTree) -> float:
    """The largest mean loss of corners of the balls."""
    draw = np.random.default_rng(1)
    found = []
    for z in X + EPS * np.sign(draw.normal(size=(200, *X.shape))):
        for w, b in params[:-1]:
            z = np.maximum(z @ w + b, 0)
        found.append(cross_entropy(z @ params[-1][0] + params[-1][1])[0])
    return max(found)


METHODS = {
    "wong_kolter": {},
    "interval": {"methods": ("interval",)},
    "projected": {"samples": 5},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_robust_loss_and_its_gradient_in_the_parameters(name: str) -> None:
    defense = defenses.dual(Linf(EPS), clean_weight=0.2, ramp=0.0, **METHODS[name])
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, PARAMS)
        direction = jax.tree.map(lambda p: jnp.asarray(DRAW.normal(size=p.shape)), params)
        run = jax.jit(jax.value_and_grad(loss_of(defense, two_layers()), has_aux=True))
        (_, aux), gradient = run(params)
        above, below = (
            run(jax.tree.map(lambda p, d, s=s: p + s * d, params, direction))[0][0]
            for s in (1e-6, -1e-6)
        )
        products = jax.tree.map(lambda g, d: float(jnp.sum(g * d)), gradient, direction)
        slope = (float(above) - float(below)) / 2e-6
    np.testing.assert_allclose(sum(jax.tree.leaves(products)), slope, rtol=1e-5)
    assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(gradient))
    robust = float(aux.metrics["robust_loss"])
    if name == "interval":
        np.testing.assert_allclose(robust, interval_loss(PARAMS), rtol=1e-9)
    if name == "wong_kolter":
        assert worst_sampled(PARAMS) < robust < interval_loss(PARAMS)


def test_projections_follow_the_example_and_the_key() -> None:
    run = loss_of(defenses.dual(Linf(EPS), samples=3, ramp=0.0), two_layers())
    params, batch = jax.tree.map(np.float32, PARAMS), batch_of(jnp.float32)
    moved = jax.tree.map(lambda a: a[jnp.asarray([3, 1, 0, 2, 5, 4])], batch)
    here, there = (run(params, 1.0, jax.random.key(0), b)[0] for b in (batch, moved))
    np.testing.assert_allclose(there, here, rtol=1e-5)
    assert abs(run(params, 1.0, jax.random.key(1), batch)[0] - here) > 1e-4


def test_bounds_use_running_statistics_which_the_clean_pass_renews() -> None:
    model, data = normalized(rate=0.3), images().train
    batch = Batch(to_float(data.x[:8]), jnp.asarray(data.y[:8]), jnp.arange(8))
    params, stats = model.init(jax.random.key(0), batch.x)
    variables = Variables(params, jax.tree.map(lambda s: s * 3 + 0.5, stats))
    threat = Linf(0.02)

    @jax.jit
    def run(variables: Variables, x: Array) -> Any:
        loss = defenses.dual(threat, ramp=0.0).loss
        context = defenses.TrainContext(progress=0.5)
        value, aux = loss(jax.random.key(0), model, variables, batch._replace(x=x), context)
        f = model.logits_fn(variables)
        bound = partial(margin_bounds, f, threat=threat, methods=("wong_kolter",))
        robust = -jax.vmap(bound)(x, batch.y)
        renewed = model.apply(variables, x, train=True, key=jax.random.key(0), axes=())[1]
        return value, jnp.mean(jax.vmap(losses.cross_entropy)(robust, batch.y)), aux.stats, renewed

    value, expected, stats, renewed = run(variables, batch.x)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    for ours, theirs in zip(jax.tree.leaves(stats), jax.tree.leaves(renewed), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    assert run(variables, 1 - batch.x)[0] != value
    assert run._cache_size() == 1


def test_training_lowers_the_certified_error() -> None:
    data = images().train
    batch = Batch(to_float(data.x).reshape(-1, SIZE), jnp.asarray(data.y), jnp.arange(data.size))
    defense = defenses.dual(Linf(0.05), ramp=0.5)
    draw = np.random.default_rng(2)
    params = [
        (0.3 * draw.normal(size=(n, m)), np.zeros(m)) for n, m in itertools.pairwise((SIZE, 16, 4))
    ]

    @jax.jit
    def train(params: PyTree) -> Array:
        def step(params: PyTree, progress: Array) -> Any:
            def loss(params: PyTree) -> Any:
                context = defenses.TrainContext(progress=progress)
                variables = Variables(params)
                return defense.loss(jax.random.key(0), two_layers(), variables, batch, context)

            gradient, aux = jax.grad(loss, has_aux=True)(params)
            return jax.tree.map(lambda p, g: p - 0.3 * g, params, gradient), aux.metrics

        # the first step tells the error at the full radius before training
        progress = jnp.concatenate([jnp.ones(1), jnp.linspace(0, 1, 100)])
        return jax.lax.scan(step, params, progress)[1]["robust_error"]

    error = train(jax.tree.map(np.float32, params))
    assert error[0] > 60
    assert error[-1] < 20


def test_impossible_settings_are_refused() -> None:
    threat = Linf(0.1)
    with pytest.raises(ValueError, match="method 'wong_kolte'; did you mean 'wong_kolter'"):
        defenses.dual(threat, methods=("wong_kolte",))
    with pytest.raises(ValueError, match="methods must be a sequence of"):
        defenses.dual(threat, methods="interval")
    with pytest.raises(ValueError, match=r"clean_weight is a share, at most 1, got 1\.5"):
        defenses.dual(threat, clean_weight=1.5)
    with pytest.raises(ValueError, match="ramp must be finite and at least 0, got -1"):
        defenses.dual(threat, ramp=-1.0)
    with pytest.raises(ValueError, match=r"first_radius=0\.2 is above the threat's radius 0\.1"):
        defenses.dual(threat, first_radius=0.2)
    with pytest.raises(ValueError, match="samples must be a whole number of at least 1, got 0"):
        defenses.dual(threat, samples=0)
    for setting in ({"methods": ("interval",)}, {"boxed": True}, {"chunk": 4}):
        with pytest.raises(ValueError, match="samples=10 estimates Wong-Kolter's bounds"):
            defenses.dual(threat, samples=10, **setting)
