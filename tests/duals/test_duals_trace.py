"""Traced graphs compute what the function computes, and refuse what they cannot bound."""

import dual_cases as cases
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxrobust import duals, models
from jaxrobust.duals.graph import run
from jaxrobust.duals.relaxations import Relaxation, relaxation
from jaxrobust.models.convolution import Conv
from jaxrobust.models.layers import batch_norm, max_pool, norm_layer

X = np.linspace(-1.5, 1.5, 12).astype(np.float32)


def value(graph, x):
    values = run(graph, x, lambda n, z: relaxation(n.kind).function(z, *n.args))
    return values[graph.output.id]


def kinds(f, x=X):
    return [node.kind for node in duals.trace(f, x).nodes]


KINDS = {
    "relu": ["relu"],
    "leaky_relu": ["relu"],
    "steep leaky_relu": ["relu"],
    "where": ["relu"],
    "hard_tanh": ["clip"],
    "relu6": ["clip"],
    "clip": ["clip"],
    "abs": ["relu"],
    "maximum": ["relu"],
    "minimum": ["relu"],
    "max with a constant": ["relu"],
    "sigmoid": ["tanh"],
    "tanh": ["tanh"],
    "softplus": ["softplus"],
}


def image_network(x):
    x = x.reshape(1, 4, 3, 1)
    pooled = nn.max_pool(x, (3, 3), (1, 1), "SAME")
    pooled = jnp.concatenate([pooled, max_pool(x[:, :, :2])[:, :1].repeat(4, 1).repeat(3, 2)], -1)
    average = 0.25 * lax.reduce_window(
        pooled, np.float32(0), lax.add, (1, 2, 2, 1), (1, 2, 1, 1), "SAME"
    )
    moved = lax.rev(jnp.pad(average[0], ((1, 0), (0, 0), (0, 0))), (0,)).transpose(2, 0, 1)
    shared = jax.nn.relu(moved) + jnp.cumsum(jax.nn.relu(moved), axis=1)
    return jnp.where(X[:3].sum() > 0, shared, 2.0 * shared).reshape(-1)


def pooled_minima(x):
    x = x.reshape(1, 4, 3, 1)
    least = lax.reduce_window(x, np.float32(np.inf), lax.min, (1, 2, 2, 1), (1, 2, 1, 1), "SAME")
    return least.reshape(-1) + jnp.min(x)


def wrapped(x):
    @jax.custom_vjp
    def dishonest(x):
        return jax.nn.relu(x) * 2.0

    dishonest.defvjp(lambda x: (dishonest(x), None), lambda _, g: (g,))
    inner = jax.jit(jax.nn.relu)
    return jax.checkpoint(lambda x: dishonest(lax.stop_gradient(x)) + inner(inner(x) - 1.0))(x)


def test_graphs_compute_the_function():
    functions = cases.ACTIVATIONS | {
        "images": image_network,
        "minima": pooled_minima,
        "wrapped": wrapped,
    }

    @jax.jit
    def both(x):
        return {n: (f(x), value(duals.trace(f, x), x)) for n, f in functions.items()}

    for name, (expected, found) in both(X).items():
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6, err_msg=name)
    for name, expected in KINDS.items():
        assert kinds(cases.ACTIVATIONS[name]) == expected, name
    # equal inner programs share their variables, their values are apart; relu(x) is there once
    assert kinds(wrapped) == ["relu", "relu"]


class Residual(nn.Module):
    """Batch normalization, a learned skip and a layer used twice."""

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.Dense(4, name="first")(nn.relu(Conv(2, strides=2, name="conv")(x)).reshape(1, -1))
        twice = nn.Dense(4, name="twice")
        h = batch_norm(norm_layer((), jnp.float32, "norm"), twice(x), train=train)
        return nn.Dense(3, name="head")(jnp.concatenate([nn.relu(twice(nn.relu(h))) + h, x], -1))


def test_linen_models_with_traced_parameters_are_traced():
    model = models.from_linen(Residual())
    x = jnp.linspace(0, 1, 64).reshape(8, 8, 1)
    variables = model.init(jax.random.key(0), x[None])

    @jax.jit
    def both(variables, x):
        graph = duals.trace(model.logits_fn(variables), x)
        assert [n.kind for n in graph.nodes] == ["relu"] * 3
        return model.logits_fn(variables)(x), value(graph, x)

    expected, found = both(variables, x)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@jax.jit
def bent(x):
    return jnp.tan(x)


REFUSED = {
    "operation 'sort'": jnp.sort,
    "operation 'tan' in 'bent": bent,
    "'conv_general_dilated' of values": lambda x: jnp.convolve(x, x),
    "'cond' chooses a branch": lambda x: lax.cond(x[0] > 0, lambda v: v, lambda v: -v, x),
    "'gt' makes or uses bool": lambda x: jnp.where(x > 0, x, x + 1.0),
    "makes or uses int32 values": lambda x: x[jnp.argmax(x)][None],
    "convert_element_type' makes or uses int32": lambda x: x.astype(jnp.int32).astype(jnp.float32),
    "computes in bfloat16": lambda x: x.astype(jnp.bfloat16).astype(jnp.float32),
    "'reduce_precision' rounds": lambda x: lax.reduce_precision(x, 5, 10),
    "'pow' takes exponents": lambda x: x ** np.linspace(1.5, 2, 12, dtype=np.float32),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_not_affine_is_refused_by_name(message):
    with pytest.raises(duals.UnsupportedOperation, match=message):
        duals.trace(REFUSED[message], X)


def test_inputs_and_outputs_are_checked():
    with pytest.raises(ValueError, match="float32 or float64"):
        duals.trace(lambda x: x, X.astype(np.float16))
    with pytest.raises(ValueError, match="logits"):
        duals.trace(lambda x: x[None], X)
    with pytest.raises(ValueError, match="does not depend on its input"):
        duals.trace(lambda x: jnp.ones(3), X)


def test_a_registered_activation_is_bounded(monkeypatch):
    monkeypatch.setattr(duals.relaxations, "_REGISTRY", dict(duals.relaxations._REGISTRY))

    @jax.jit
    def root(z):
        return jnp.cbrt(z)

    def lines(l, u, alpha):  # noqa: E741
        del alpha
        zero = jnp.zeros_like(l)
        return duals.Lines(zero, jnp.cbrt(l), zero, jnp.cbrt(u))

    with pytest.raises(duals.UnsupportedOperation):
        duals.trace(root, X)
    duals.register("root", Relaxation(root, lines, lambda l, u: jnp.zeros_like(l)))  # noqa: E741
    assert kinds(lambda x: 2 * root(x - 1)) == ["root"]
    with pytest.raises(ValueError, match="choose another name"):
        duals.register("relu", relaxation("tanh"))
    for kind in ("", 3, None):
        with pytest.raises(ValueError, match="a kind of node is a name, got"):
            duals.register(kind, relaxation("tanh"))
    for wrong in (None, "tanh", jnp.tanh):
        with pytest.raises(ValueError, match=r"is taught by a duals\.Relaxation, got"):
            duals.register("mine", wrong)
