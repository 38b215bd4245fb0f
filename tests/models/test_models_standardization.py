"""The closed form of batch normalization's derivative, against the formula differentiated."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import models
from jaxrobust.models.standardization import standardize

EPSILON = 1e-5


@pytest.fixture
def arrays():
    draw = np.random.default_rng(0)
    with jax.enable_x64(True):
        yield tuple(jnp.asarray(draw.normal(size=shape)) for shape in ((4, 3, 3, 5), (5,), (5,)))


def plain(x, scale, offset):
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    wide = [a.reshape(1, 1, 1, -1) for a in (mean, var, scale, offset)]
    return (x - wide[0]) / jnp.sqrt(wide[1] + EPSILON) * wide[2] + wide[3], mean, var


def mine(x, scale, offset):
    return standardize(None, EPSILON, x, scale, offset)


def summed(normalize):
    def value(x, scale, offset):
        y, mean, var = normalize(x, scale, offset)
        weights = jnp.sin(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape)
        return jnp.sum(jnp.sin(y) * weights) + jnp.sum(mean**2) + jnp.sum(jnp.cos(var))

    return value


def test_values_and_derivatives_of_two_orders_are_the_formulas(arrays):
    for a, b in zip(mine(*arrays), plain(*arrays), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)
    for wanted in range(3):
        grads = [jax.grad(summed(h), wanted)(*arrays) for h in (mine, plain)]
        np.testing.assert_allclose(*grads, atol=1e-12)

    def curvature(normalize):
        slope = jax.grad(summed(normalize))
        return jax.grad(lambda x: jnp.sum(slope(x, *arrays[1:]) ** 2))(arrays[0])

    np.testing.assert_allclose(curvature(mine), curvature(plain), atol=1e-10)
    x, *rest = arrays
    forward = [jax.jvp(lambda x, h=h: summed(h)(x, *rest), (x,), (x,))[1] for h in (mine, plain)]
    np.testing.assert_allclose(*forward, atol=1e-10)


def test_means_run_over_a_mapped_axis(arrays):
    x, scale, offset = arrays

    def alone(x):
        return standardize("examples", EPSILON, x[None], scale, offset).y[0]

    def value(x):
        return jnp.sum(jnp.sin(jax.vmap(alone, axis_name="examples")(x)) * x)

    whole = jax.grad(lambda x: jnp.sum(jnp.sin(plain(x, scale, offset)[0]) * x))(x)
    np.testing.assert_allclose(jax.grad(value)(x), whole, atol=1e-12)


def test_networks_normalize_as_flax_does():
    """A convolution, batch norm and ReLU in both modes; running statistics too."""

    class Ours(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            conv = models.convolution.Conv(4, use_bias=True, name="conv")
            norm = models.layers.norm_layer((), jnp.float32, "norm")
            return models.layers.relu(models.layers.normalized(conv, norm, x, train=train))

    class Theirs(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            x = nn.Conv(4, (3, 3), name="conv")(x)
            norm = nn.BatchNorm(not train, momentum=0.9, epsilon=1e-5, name="norm")
            return nn.relu(norm(x))

    draw = np.random.default_rng(1)
    x = jnp.asarray(draw.normal(size=(6, 5, 5, 3)), jnp.float32)
    variables = Ours().init(jax.random.key(0), x)
    variables = jax.tree.map(
        lambda a: a + jnp.asarray(draw.uniform(0.1, 1, a.shape), a.dtype), variables
    )

    def both(module, train):
        def value(variables, x):
            y, stats = module.apply(variables, x, train=train, mutable=["batch_stats"])
            return jnp.sum(jnp.sin(y) * x[..., :1]), (y, stats)

        return jax.value_and_grad(value, (0, 1), has_aux=True)(variables, x)

    for train in (False, True):
        ours, theirs = both(Ours(), train), both(Theirs(), train)
        assert jax.tree.structure(ours) == jax.tree.structure(theirs)
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)


def test_a_network_inside_of_another_averages_over_devices():
    """The outer module has no field `axes`; its statistics are the whole batch's all the same."""

    class Outer(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            inner = models.build("preact_resnet18", 3, SMALL)
            return inner(x, train=train)

    SMALL = {"stem": 4, "features": (4,), "blocks": 1}
    x = jnp.asarray(np.random.default_rng(2).uniform(size=(4, 6, 6, 1)), jnp.float32)
    model = models.from_linen(Outer())
    variables = model.init(jax.random.key(0), x)

    def alone(x):
        return model.apply(variables, x[None], train=True, axes=("examples",))

    logits, _ = model.apply(variables, x, train=True)
    mapped, _ = jax.vmap(alone, axis_name="examples")(x)
    np.testing.assert_allclose(mapped[:, 0], logits, atol=1e-5)
