"""Gradient alignment against cosines of gradients written by hand."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attacks import attack_cases as cases
from training.training_cases import assert_close, images, linear, normalized, sgd

from jaxrobust import attacks, defenses, losses
from jaxrobust.data import permutation, shard
from jaxrobust.defenses import Defense, TrainContext
from jaxrobust.pytree import pytree
from jaxrobust.threats import L2, Linf
from jaxrobust.training import init_state, make_step, pmapped_steps, replicate, unreplicate
from jaxrobust.types import Array, Batch, Key, Model, PyTree, Scalar, Variables

WEIGHT, EPS = 0.7, 0.1
KEY = jax.random.key(0)
DRAW = np.random.default_rng(0)


@pytree
@dataclasses.dataclass(frozen=True)
class Shift:
    """A set of one point, in which nothing is left to chance."""

    radius: Scalar
    by: Array
    lower: Scalar = 0.0
    upper: Scalar = 1.0

    def sample(self, key: Key, x: Array) -> Array:
        del key
        return jnp.clip(x + self.by.astype(x.dtype), self.lower, self.upper)


def of_net(classes: int) -> tuple[Model, cases.Net]:
    """The network of the attacks' tests as a model, and its parameters."""

    def apply(
        variables: Variables, x: Array, *, train: bool, key: Key | None, axes: tuple[str, ...]
    ) -> tuple[Array, PyTree]:
        del train, key, axes
        return jax.vmap(lambda z: cases.logits(variables.params, z))(x), ()

    net = cases.random_net(3, classes=classes)
    return Model(lambda key, x: Variables(net), apply), net


def batch_of(x: Any, y: Any, dtype: Any = jnp.float32) -> Batch:
    return Batch(jnp.asarray(x, dtype), jnp.asarray(y, jnp.int32), jnp.arange(len(y)))


def loss_of(defense: Defense, model: Model, batch: Batch, stats: PyTree = ()) -> Any:
    """Parameters -> (loss, LossOutput), compiled with its gradient."""

    def loss(params: PyTree) -> Any:
        context = TrainContext(state=defense.init())
        return defense.loss(KEY, model, Variables(params, stats), batch, context)

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


def test_value_and_gradient_are_those_of_hand_written_cosines() -> None:
    model, net = of_net(3)
    x, y = DRAW.uniform(size=(5, *cases.SHAPE)), np.array([0, 1, 2, 1, 0])
    # Over the box's edge: the points are not clipped.
    x[:, 0, 0] = 1.0
    shift = DRAW.uniform(0.5, 1.0, cases.SHAPE)

    def alignment(net: cases.Net) -> float:
        found = []
        for z, label in zip(x, y, strict=True):
            a, b = (cases.np_gradient(net, p, label).ravel() for p in (z, z + shift))
            found.append(a @ b / np.sqrt((a @ a) * (b @ b)))
        return float(np.mean(found))

    def total(net: cases.Net) -> float:
        each = [cases.np_cross_entropy(net, z, label) for z, label in zip(x, y, strict=True)]
        return float(np.mean(each)) + WEIGHT * (1 - alignment(net))

    with jax.enable_x64(True):
        threat = Shift(EPS, jnp.asarray(shift))
        defense = defenses.grad_align(defenses.erm(), threat, weight=WEIGHT)
        batch = batch_of(x, y, jnp.float64)
        (value, aux), gradient = loss_of(defense, model, batch)(cases.to_jax(net, np.float64))
        assert alignment(net) < 0.9
        np.testing.assert_allclose(value, total(net), rtol=1e-12)
        np.testing.assert_allclose(aux.metrics["alignment"], alignment(net), rtol=1e-12)
        for name in net._fields:
            # One random direction per array of weights.
            along = DRAW.normal(size=getattr(net, name).shape)
            up, down = (
                total(net._replace(**{name: getattr(net, name) + h * along})) for h in (1e-5, -1e-5)
            )
            slope = float((getattr(gradient, name) * along).sum())
            np.testing.assert_allclose(slope, (up - down) / 2e-5, rtol=1e-6, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_gradients_use_running_statistics_or_those_of_the_batch(mode: str) -> None:
    """Against gradients of the whole batch's summed loss, which batch normalization couples."""
    # its own numbers: with others a gradient may vanish, and the cosine written out below with it
    draw = np.random.default_rng(1)
    model, shift = normalized(), jnp.asarray(draw.uniform(-0.5, 0.5, (4, 4, 1)), jnp.float32)
    batch = batch_of(draw.uniform(size=(8, 4, 4, 1)), draw.integers(0, 4, 8))
    params, stats = model.init(jax.random.key(1), batch.x)
    stats = jax.tree.map(lambda s: 3 * s + 0.5, stats)

    def written_out(params: PyTree) -> Array:
        def summed(x: Array, train: bool) -> Array:
            held = Variables(params, stats)
            logits, _ = model.apply(held, x, train=train, key=None, axes=())
            return jax.vmap(losses.cross_entropy)(logits, batch.y).sum()

        points = (batch.x, batch.x + shift[None])
        a, b = (jax.grad(summed)(p, mode == "train").reshape(8, -1) for p in points)
        cosines = (a * b).sum(1) / jnp.sqrt((a * a).sum(1) * (b * b).sum(1))
        return summed(batch.x, True) / 8 + WEIGHT * (1 - cosines.mean())

    defense = defenses.grad_align(
        defenses.erm(), Shift(EPS, shift), weight=WEIGHT, attack_mode=mode
    )
    (value, aux), gradient = loss_of(defense, model, batch, stats)(params)
    expected, slope = jax.jit(jax.value_and_grad(written_out))(params)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert_close(gradient, slope, rtol=1e-3, atol=1e-5)
    # Statistics are those that the wrapped defense saw.
    _, renewed = model.apply(Variables(params, stats), batch.x, train=True, key=None, axes=())
    assert_close(aux.stats, renewed, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("threat", [Linf(EPS), L2(EPS)], ids=["linf", "l2"])
def test_eta_is_uniform_in_the_ball_without_the_box(threat: Any) -> None:
    """One pixel at the edge of the box, where the loss turns around at -t eps: P(eta < -t eps)."""

    def apply(
        variables: Variables, x: Array, *, train: bool, key: Key | None, axes: tuple[str, ...]
    ) -> tuple[Array, PyTree]:
        del train, key, axes
        return jnp.concatenate([jnp.abs(x + variables.params), jnp.zeros_like(x)], 1), ()

    model = Model(lambda key, x: Variables(jnp.zeros(())), apply)
    count = 2000
    run = loss_of(
        defenses.grad_align(defenses.erm(), threat, weight=WEIGHT),
        model,
        batch_of(np.zeros((count, 1)), np.zeros(count)),
    )
    for t in (0.01, 0.5, 0.9, 1.001):
        (_, aux), _ = run(jnp.asarray(t * EPS))
        share = max(0.0, (1 - t) / 2)
        # Four standard deviations of a share of so many draws; the cosine is 1 or -1.
        assert (1 - float(aux.metrics["alignment"])) / 2 == pytest.approx(share, abs=4 * 0.5 / 45)
    assert float(aux.metrics["alignment"]) == pytest.approx(1, abs=1e-6)


@pytest.mark.slow
def test_two_linear_classes_are_aligned_and_more_are_not() -> None:
    x, y = DRAW.uniform(size=(6, 5)), np.array([0, 1, 0, 1, 1, 0])
    for classes in (2, 3):
        wrapped = defenses.fgsm(Linf(0.5))
        defense = defenses.grad_align(wrapped, Linf(0.5), weight=WEIGHT)
        model = linear(classes)
        params = model.init(jax.random.key(2), jnp.zeros((1, 5))).params
        (value, aux), _ = loss_of(defense, model, batch_of(x, y))(params)
        (plain, _), _ = loss_of(wrapped, model, batch_of(x, y))(params)
        if classes == 2:
            np.testing.assert_allclose(value, plain, atol=1e-6)
            np.testing.assert_allclose(aux.metrics["alignment"], 1, atol=1e-6)
        else:
            assert float(aux.metrics["alignment"]) < 0.999
            added = WEIGHT * (1 - float(aux.metrics["alignment"]))
            np.testing.assert_allclose(value - plain, added, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
def test_vanishing_gradients_count_as_aligned(scale: float) -> None:
    """All weights zero, or logits so far apart that only the wrong example has a gradient."""
    model, net = of_net(3)
    params = jax.tree.map(lambda w: jnp.float32(scale) * w, cases.to_jax(net))
    x = DRAW.uniform(size=(12, *cases.SHAPE))
    y = np.array([np.argmax(cases.np_logits(net, z)) for z in x])
    y[0] = (y[0] + 1) % 3
    batch = batch_of(x, y)
    defense = defenses.grad_align(defenses.erm(), Linf(EPS), weight=WEIGHT)
    (value, aux), gradient = loss_of(defense, model, batch)(params)
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    if scale != 1:
        (plain, _), slope = loss_of(defenses.erm(), model, batch)(params)
        np.testing.assert_allclose(aux.metrics["alignment"], 1, atol=1e-6)
        np.testing.assert_allclose(value, plain, atol=1e-6)
        assert_close(gradient, slope, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_any_number_of_devices_gives_the_same_state(mode: str) -> None:
    dataset, steps = images(), 3
    model, optimizer = normalized(), sgd()
    defense = defenses.grad_align(
        defenses.fgsm(Linf(EPS), start=attacks.uniform, attack_mode=mode),
        Linf(EPS),
        weight=WEIGHT,
        attack_mode=mode,
    )
    step = make_step(model, defense, optimizer, total_steps=steps)
    sample = jnp.zeros((1, *dataset.shape), jnp.float32)
    state = init_state(jax.random.key(0), model, defense, optimizer, None, sample)
    order = np.asarray(permutation(0, 0, dataset.train.size, 16))[:steps]
    found = {}
    for count in (1, 8):
        devices = jax.devices()[:count]
        run = pmapped_steps(step, devices=devices)
        data = replicate(dataset.train, devices)
        trained, metrics = run(replicate(state, devices), data, shard(order, count))
        found[count] = unreplicate(trained), {name: v[0] for name, v in metrics.items()}
    assert float(found[1][1]["alignment"].min()) < 0.999
    assert_close(found[8], found[1], rtol=2e-4, atol=2e-5)


def test_the_wrapped_defense_keeps_its_state_and_its_replays() -> None:
    free = defenses.free(Linf(EPS), shape=(4, 5), replays=3)
    wrapped = defenses.grad_align(free, Linf(EPS), weight=WEIGHT)
    assert wrapped._replace(loss=free.loss) == free
    dale = defenses.dale(
        attacks.langevin(Linf(EPS), step_size=0.05, steps=1, temperature=0.0), rho=0.5
    )
    assert defenses.grad_align(dale, Linf(EPS), weight=WEIGHT).constrained


def test_mistakes_name_the_value() -> None:
    with pytest.raises(ValueError, match=r"weight must be finite and at least 0, got -0\.1"):
        defenses.grad_align(defenses.erm(), Linf(EPS), weight=-0.1)
    with pytest.raises(ValueError, match="attack_mode 'tain'; did you mean 'train'"):
        defenses.grad_align(defenses.erm(), Linf(EPS), weight=WEIGHT, attack_mode="tain")
