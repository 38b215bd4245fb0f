"""Small random networks for the duals, and points of balls to test bounds against."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

ACTIVATIONS = {
    "relu": jax.nn.relu,
    "leaky_relu": lambda z: jax.nn.leaky_relu(z, 0.1),
    "steep leaky_relu": lambda z: jax.nn.leaky_relu(z, 1.5),
    "where": lambda z: jnp.where(z > 0, z, 0.3 * z),
    "hard_tanh": jax.nn.hard_tanh,
    "relu6": lambda z: jax.nn.relu6(4 * z),
    "clip": lambda z: jnp.clip(z, -0.3, 0.6),
    "abs": jnp.abs,
    "maximum": lambda z: jnp.maximum(z, 0.5 * z[::-1]),
    "minimum": lambda z: jnp.minimum(z, jnp.roll(z, 1) + 0.1),
    "max with a constant": lambda z: jnp.maximum(z, 0.2),
    "sigmoid": jax.nn.sigmoid,
    "tanh": lambda z: jnp.tanh(2 * z),
    "softplus": jax.nn.softplus,
    "global max": lambda z: jnp.concatenate([z, jnp.max(z)[None]])[1:],
}


def weights(seed=0, sizes=(4, 6, 6, 3), dtype=np.float64):
    """Matrices and biases of a fully connected network."""
    rng = np.random.default_rng(seed)
    shapes = list(zip(sizes[1:], sizes, strict=False))
    matrices = [(1.5 * rng.normal(size=s) / np.sqrt(s[1])).astype(dtype) for s in shapes]
    return matrices, [(0.3 * rng.normal(size=s[0])).astype(dtype) for s in shapes]


def mlp(activation, parameters):
    """A fully connected network; `activation` may be a tuple, one for each hidden layer."""

    def f(x):
        *hidden, last = zip(*parameters, strict=True)
        own = activation if isinstance(activation, tuple) else (activation,) * len(hidden)
        for h, (matrix, bias) in zip(own, hidden, strict=True):
            x = h(matrix @ x + bias)
        return last[0] @ x + last[1]

    return f


def mixed(*names):
    """An activation that applies those of these names in turn, one to each stretch of units."""

    def activation(z):
        parts = jnp.split(z, len(names))
        return jnp.concatenate([ACTIVATIONS[n](p) for n, p in zip(names, parts, strict=True)])

    return activation


def cnn(seed=0, dtype=np.float64, activation=jax.nn.relu):
    """Two strided convolutions on 8 x 8 x 1, the second grouped and dilated, and a dense layer."""
    rng = np.random.default_rng(seed)
    first = (0.4 * rng.normal(size=(3, 3, 1, 4))).astype(dtype)
    second = (0.4 * rng.normal(size=(2, 2, 2, 4))).astype(dtype)
    dense = (0.4 * rng.normal(size=(3, 4))).astype(dtype)

    def f(x):
        layout = ("NHWC", "HWIO", "NHWC")
        x = lax.conv_general_dilated(x[None], first, (2, 2), "VALID", dimension_numbers=layout)
        x = lax.conv_general_dilated(
            activation(x + jnp.asarray(0.1, dtype)),
            second,
            (1, 1),
            "VALID",
            rhs_dilation=(2, 2),
            dimension_numbers=layout,
            feature_group_count=2,
        )
        return dense @ activation(x).reshape(-1)

    return f


def ball_points(threat, x, count=400, seed=0):
    """Points of the ball without its box: random ones, and extreme ones of linf and l1."""
    keys = jax.random.split(jax.random.key(seed), count)
    far = type(threat)(threat.radius, -np.inf, np.inf)
    inner = jax.vmap(lambda k: far.sample(k, x))(keys)
    steps = jax.vmap(lambda k: far.steepest(jax.random.normal(k, x.shape, x.dtype), x))(keys)
    return jnp.concatenate([inner, x[None] + jnp.asarray(threat.radius, x.dtype) * steps])
