"""Adversarial weight perturbation: what moves, by how much, and what the gradient sees."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training.training_cases import CLASSES, SHAPE, assert_close, normalized

from jaxrobust import attacks, defenses
from jaxrobust.defenses import TrainContext
from jaxrobust.defenses.awp import weight_perturbation
from jaxrobust.threats import Linf
from jaxrobust.types import Array, Batch, PyTree, Variables

GAMMA = 0.1
PGD = attacks.pgd(Linf(0.1), step_size=0.05, steps=2, start=attacks.clean, keep="last")
DEFENSE = defenses.awp(PGD, gamma=GAMMA)


def test_kernels_move_by_a_share_of_their_norm_and_nothing_else_moves() -> None:
    draw = np.random.default_rng(0)
    shapes = {"kernel": (3, 3, 2, 4), "matrix": (5, 6), "bias": (6,), "scale": (4,), "zero": (2, 2)}
    params = {n: jnp.asarray(draw.normal(size=s), jnp.float32) for n, s in shapes.items()}
    gradient = {n: jnp.asarray(draw.normal(size=s), jnp.float32) for n, s in shapes.items()}
    params["zero"] = jnp.zeros((2, 2))
    moved = weight_perturbation(params, gradient, GAMMA)
    for name in ("kernel", "matrix"):
        w, v, d = (np.asarray(tree[name], float).ravel() for tree in (params, gradient, moved))
        assert np.linalg.norm(d) == pytest.approx(GAMMA * np.linalg.norm(w), rel=1e-5)
        assert d @ v == pytest.approx(np.linalg.norm(d) * np.linalg.norm(v), rel=1e-5)
    for name in ("bias", "scale", "zero"):
        assert not np.any(moved[name])
    still = weight_perturbation(params, jax.tree.map(jnp.zeros_like, gradient), GAMMA)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(still))


def test_the_loss_is_that_of_the_perturbed_network_step_by_step() -> None:
    """Two passes written out with batch normalization; statistics are renewed once, by the last."""
    draw, model = np.random.default_rng(1), normalized()
    x = jnp.asarray(draw.uniform(size=(8, *SHAPE)), jnp.float32)
    batch = Batch(x, jnp.asarray(draw.integers(0, CLASSES, 8), jnp.int32), jnp.arange(8))
    variables = model.init(jax.random.key(0), x)

    def mean(params: PyTree, points: Array) -> tuple[Array, PyTree]:
        held = Variables(params, variables.stats)
        logits, stats = model.apply(held, points, train=True, key=None, axes=())
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), batch.y[:, None], axis=1)
        return -jnp.mean(chosen), stats

    @jax.jit
    def written_out(params: PyTree) -> tuple:
        points = defenses.adversarial_examples(
            jax.random.key(9), PGD, model, variables, batch, TrainContext(), attack_mode="eval"
        )
        v = jax.grad(lambda p: mean(p, points)[0])(params)
        worse = {layer: dict(leaves) for layer, leaves in params.items()}
        for layer in ("Dense_0", "Dense_1"):
            w, u = params[layer]["kernel"], v[layer]["kernel"]
            worse[layer]["kernel"] = w + GAMMA * jnp.sqrt(jnp.sum(w**2) / jnp.sum(u**2)) * u
        return jax.value_and_grad(mean, has_aux=True)(worse, points)

    @jax.jit
    def found(params: PyTree) -> tuple:
        def loss(params: PyTree) -> tuple:
            held = Variables(params, variables.stats)
            return DEFENSE.loss(jax.random.key(0), model, held, batch, TrainContext())

        return jax.value_and_grad(loss, has_aux=True)(params)

    (value, aux), gradient = found(variables.params)
    (expected, stats), slope = written_out(variables.params)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert_close(gradient, dict(slope), rtol=1e-4, atol=1e-6)
    assert_close(aux.stats, stats, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(aux.metrics["adversarial_loss"], expected, rtol=1e-5)


def test_mistakes_name_the_value() -> None:
    with pytest.raises(ValueError, match=r"gamma must be finite and at least 0, got -0\.1"):
        defenses.awp(PGD, gamma=-0.1)
    with pytest.raises(ValueError, match="attack_mode 'tain'; did you mean 'train'"):
        defenses.awp(PGD, gamma=GAMMA, attack_mode="tain")
    with pytest.raises(ValueError, match=r"ramp is a share, at most 1, got 1\.5"):
        defenses.awp(PGD, gamma=GAMMA, ramp=1.5)
