"""Batch norm, alone and as part of a convolution, against Flax's layers."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import models


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
