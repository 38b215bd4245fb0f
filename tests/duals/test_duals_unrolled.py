"""Loops and branches on constants are written out; those on the input are refused by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxrobust import duals
from jaxrobust.duals.graph import run
from jaxrobust.duals.relaxations import relaxation

X = np.linspace(-1, 1, 6).astype(np.float32).reshape(2, 3)
W = np.random.default_rng(0).normal(size=(4, 3, 3)).astype(np.float32)


def layers(x):
    """A network whose layers are scanned over, and all that it makes on its way."""
    end, way = lax.scan(lambda h, w: (jax.nn.relu(w @ h), jnp.sum(h)), x[0], W)
    return jnp.concatenate([end, way])


def backwards(x):
    end, way = lax.scan(lambda h, r: (h + r, jax.nn.relu(h)), x[0], x, reverse=True)
    return jnp.concatenate([end, way.ravel()])


def counted(x):
    return lax.fori_loop(0, 3, lambda i, h: jnp.tanh(h) * (i + 1), x).ravel()


def until(x):
    return lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, jnp.abs(s[1]) - 0.5), (0, x))[
        1
    ].ravel()


def chosen(x):
    x = lax.cond(W[0, 0, 0] > 0, jax.nn.relu, jnp.abs, x)
    return lax.switch(2, [jnp.sin, jnp.cos, jax.nn.relu], x - 0.1).ravel()


def test_loops_are_written_out():
    functions = {"layers": layers, "backwards": backwards, "counted": counted, "until": until}
    functions["chosen"] = chosen

    @jax.jit
    def both(x):
        found = {}
        for name, f in functions.items():
            graph = duals.trace(f, x)
            values = run(graph, x, lambda n, z: relaxation(n.kind).function(z, *n.args))
            found[name] = f(x), values[graph.output.id]
        return found

    for name, (expected, found) in both(X).items():
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6, err_msg=name)
    assert [n.kind for n in duals.trace(layers, X).nodes] == ["relu"] * 4


REFUSED = {
    "'while' runs until a condition": lambda x: lax.while_loop(
        lambda h: jnp.sum(h) < 9, lambda h: h + 1, x
    ).ravel(),
    "'cond' chooses a branch by values": lambda x: lax.cond(
        x[0, 0] > 0, jnp.abs, jax.nn.relu, x
    ).ravel(),
    "'scan' takes more than 4096 turns": lambda x: lax.fori_loop(
        0, 5000, lambda _, h: h + 1.0, x
    ).ravel(),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_the_input_decides_is_refused(message):
    with pytest.raises(duals.UnsupportedOperation, match=message):
        duals.trace(REFUSED[message], X)
