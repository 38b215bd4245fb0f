"""Activations that a program spells out are recognized, and nothing else is taken for them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import duals
from jaxrobust.duals.graph import run
from jaxrobust.duals.relaxations import relaxation

X = np.linspace(-1.5, 1.5, 6).astype(np.float32).reshape(2, 3)
KINDS = {
    "gelu": (jax.nn.gelu, ["gelu_tanh"]),
    "exact gelu": (lambda x: jax.nn.gelu(x, approximate=False), ["gelu"]),
    "gelu by hand": (lambda x: 0.5 * x * (1 + jax.lax.erf(x / np.sqrt(2))), ["gelu"]),
    "silu": (jax.nn.silu, ["silu"]),
    "silu by hand": (lambda x: jax.nn.sigmoid(x) * x, ["silu"]),
    "mish": (jax.nn.mish, ["mish"]),
    "elu": (jax.nn.elu, ["elu 1.0"]),
    "elu .5": (lambda x: jax.nn.elu(x, 0.5), ["elu 0.5"]),
    "selu": (jax.nn.selu, ["elu 1.6732631921768188"]),
    "celu": (lambda x: jax.nn.celu(x, 2.0), ["celu 2.0"]),
    "hard swish": (jax.nn.hard_swish, ["hard_silu"]),
    "hard sigmoid": (jax.nn.hard_sigmoid, ["clip"]),
    "soft sign": (jax.nn.soft_sign, ["soft_sign"]),
    "soft sign by hand": (lambda x: x / (1 + jnp.abs(x)), ["soft_sign"]),
    "log sigmoid": (jax.nn.log_sigmoid, ["softplus"]),
    "squareplus": (jax.nn.squareplus, ["squareplus"]),
    "logaddexp": (lambda x: jnp.logaddexp(x[0], x[1]), ["softplus"]),
    "softmax": (jax.nn.softmax, ["exp", "power -1"]),
    "softmax by hand": (
        lambda x: jnp.exp(x) / jnp.exp(x).sum(0, keepdims=True),
        ["exp", "power -1"],
    ),
    "log softmax": (jax.nn.log_softmax, ["exp", "log"]),
    "logsumexp": (jax.nn.logsumexp, ["exp", "log"]),
    "logsumexp of rows": (lambda x: jax.nn.logsumexp(x, axis=1), ["exp", "log"]),
    "square": (lambda x: x * x, ["square"]),
    "norm": (lambda x: jnp.linalg.norm(x, axis=1), ["square", "sqrt"]),
    "powers": (
        lambda x: x**3 + (3 + x) ** -2 + (3 + x) ** 1.5,
        ["power 3", "power -2", "power 1.5"],
    ),
    "attention": (
        lambda x: jax.nn.softmax(x @ x.T) @ x,
        ["product", "exp", "power -1", "product"],
    ),
    "not quite silu": (lambda x: x * jax.nn.sigmoid(1.01 * x), ["tanh", "product"]),
    "of another value": (lambda x: x * jax.nn.sigmoid(x[::-1]), ["tanh", "product"]),
    "not quite gelu": (lambda x: 0.49 * x * (1 + jax.lax.erf(x / np.sqrt(2))), ["erf", "product"]),
}


def flat(f):
    return lambda x: jnp.ravel(f(x))


def test_formulas_are_recognized():
    for name, (f, kinds) in KINDS.items():
        assert [n.kind for n in duals.trace(flat(f), X).nodes] == kinds, name


def test_recognized_formulas_keep_their_values():
    def value(f, x):
        graph = duals.trace(flat(f), x)
        values = run(graph, x, lambda n, z: relaxation(n.kind).function(z, *n.args))
        return values[graph.output.id]

    @jax.jit
    def both(x):
        return {n: (jnp.ravel(f(x)), value(f, x)) for n, (f, _) in KINDS.items()}

    for name, (expected, found) in both(X).items():
        np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_formulas_are_recognized_in_both_precisions(dtype):
    with jax.enable_x64(dtype == np.float64):
        for name in ("gelu", "exact gelu", "elu .5", "softmax", "mish"):
            f, kinds = KINDS[name]
            assert [n.kind for n in duals.trace(flat(f), X.astype(dtype)).nodes] == kinds, name
