"""The bridge from linen: batch statistics over mapped axes, and modules that lack features."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from model_cases import filled

from jaxrobust.models import FoscCNN, PreActResNet, from_linen
from jaxrobust.types import Model


def problem():
    random = np.random.default_rng(2)
    x = jnp.asarray(random.uniform(size=(6, 8, 8, 1)), jnp.float32)
    return x, jnp.asarray(random.integers(0, 4, size=6))


@pytest.mark.slow
@pytest.mark.parametrize(
    "module",
    [FoscCNN(((3,), (4, 4)), 8, 4), PreActResNet(4, 3, (3, 5), 1)],
    ids=["fosc", "preact"],
)
def test_per_example_loss_over_a_named_axis_has_the_batch_loss_gradient(module):
    with jax.enable_x64(True):
        x, y = problem()
        x = x.astype(jnp.float64)
        model = from_linen(module.clone(dtype=jnp.float64))
        assert isinstance(model, Model)
        variables = filled(model, x)
        cross_entropy = optax.softmax_cross_entropy_with_integer_labels

        def batch_loss(x):
            logits, stats = model.apply(variables, x, train=True, key=None, axes=())
            return cross_entropy(logits, y).sum(), stats

        def example_loss(x, y):
            logits, stats = model.apply(
                variables, x[None], train=True, key=None, axes=("examples",)
            )
            return cross_entropy(logits[0], y), stats

        gradient = jax.grad(example_loss, has_aux=True)
        lifted, lifted_stats = jax.jit(jax.vmap(gradient, axis_name="examples"))(x, y)
        exact, stats = jax.jit(jax.grad(batch_loss, has_aux=True))(x)
    np.testing.assert_allclose(lifted, exact, rtol=1e-7, atol=1e-10)
    for mine, other in zip(jax.tree.leaves(lifted_stats), jax.tree.leaves(stats), strict=True):
        np.testing.assert_allclose(mine, np.broadcast_to(other, mine.shape), rtol=1e-9, atol=1e-12)


def test_two_halves_over_an_axis_equal_the_whole_batch():
    x, _ = problem()
    model = from_linen(FoscCNN(((3,),), 8, 4))
    variables = filled(model, x)
    whole, stats = jax.jit(lambda x: model.apply(variables, x, train=True))(x)

    def half(x):
        return model.apply(variables, x, train=True, axes=("devices",))

    lifted = jax.jit(jax.vmap(half, axis_name="devices", out_axes=(0, None)))
    halves, half_stats = lifted(x.reshape(2, 3, *x.shape[1:]))
    np.testing.assert_allclose(halves.reshape(whole.shape), whole, rtol=1e-4, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), half_stats, stats)


class Bare(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(x)


class Parameterless(nn.Module):
    def __call__(self, x):
        return x


class Unaware(nn.Module):
    @nn.compact
    def __call__(self, x, *, train: bool):
        x = nn.BatchNorm(use_running_average=not train)(x)
        return nn.Dense(3)(nn.Dropout(0.5, deterministic=not train)(x))


def test_a_module_without_modes_works():
    x = jnp.ones((2, 4))
    model = from_linen(Bare())
    variables = model.init(jax.random.key(0), x)
    assert not variables.stats
    by_hand = x @ variables.params["Dense_0"]["kernel"]
    for train in (False, True):
        logits, stats = model.apply(variables, x, train=train, key=None, axes=("unused",))
        np.testing.assert_allclose(logits, by_hand, rtol=1e-6)
        assert stats is variables.stats


def test_a_module_without_parameters_works():
    model = from_linen(Parameterless())
    variables = model.init(jax.random.key(0), jnp.ones((2, 4)))
    assert not variables.params
    np.testing.assert_array_equal(model.logits_fn(variables)(jnp.arange(4.0)), jnp.arange(4.0))


def test_statistics_that_cannot_be_averaged_are_refused():
    x = jnp.ones((2, 4))
    model = from_linen(Unaware())
    variables = model.init(jax.random.key(0), x)
    _, stats = model.apply(variables, x, train=True, key=jax.random.key(1))
    np.testing.assert_allclose(stats["BatchNorm_0"]["mean"], 0.01, rtol=1e-4)
    with pytest.raises(ValueError, match="Unaware has batch statistics but no field `axes`"):
        model.apply(variables, x, train=True, key=jax.random.key(1), axes=("devices",))
