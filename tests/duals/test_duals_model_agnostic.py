"""Linen, NNX, Equinox-style modules and plain functions of equal weights are certified alike."""

from __future__ import annotations

import dataclasses
from typing import Any

import dual_cases as cases
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxrobust.duals import METHODS, certify
from jaxrobust.threats import Linf
from jaxrobust.types import LogitsFn

MATRICES, BIASES = cases.weights(3, (8, 7, 6, 3), np.float32)
X = jnp.asarray(np.random.default_rng(0).uniform(size=8), jnp.float32)


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for i, bias in enumerate(BIASES):
            x = nn.Dense(len(bias), name=f"dense{i}")(x)
            x = nn.relu(x) if i < 2 else x
        return x


class Nnx(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.dense0, self.dense1, self.dense2 = (
            nnx.Linear(m.shape[1], m.shape[0], rngs=rngs) for m in MATRICES
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.dense2(nnx.relu(self.dense1(nnx.relu(self.dense0(x)))))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Module:
    """As in Equinox: a pytree of arrays that is called."""

    matrices: Any
    biases: Any

    def __call__(self, x: jax.Array) -> jax.Array:
        for i, (matrix, bias) in enumerate(zip(self.matrices, self.biases, strict=True)):
            x = matrix @ x + bias
            x = jax.nn.relu(x) if i < 2 else x
        return x


def linen() -> LogitsFn:
    layers = zip(MATRICES, BIASES, strict=True)
    params = {f"dense{i}": {"kernel": m.T, "bias": b} for i, (m, b) in enumerate(layers)}
    return lambda x: Linen().apply({"params": params}, x)


def flax_nnx() -> LogitsFn:
    model = Nnx(nnx.Rngs(0))
    for i, (matrix, bias) in enumerate(zip(MATRICES, BIASES, strict=True)):
        layer = getattr(model, f"dense{i}")
        layer.kernel[...], layer.bias[...] = jnp.asarray(matrix.T), jnp.asarray(bias)
    graph, state = nnx.split(model)
    return lambda x: nnx.merge(graph, state)(x)


@pytest.mark.slow
def test_all_kinds_of_models_are_certified_alike() -> None:
    plain = cases.mlp(jax.nn.relu, (MATRICES, BIASES))
    module = Module([jnp.asarray(m) for m in MATRICES], [jnp.asarray(b) for b in BIASES])
    label = jnp.argmax(plain(X))
    functions = (plain, linen(), flax_nnx(), module)

    @jax.jit
    def certificates(radius: jax.Array) -> list[Any]:
        return [certify(f, X, label, Linf(radius), methods=METHODS) for f in functions]

    expected, *others = certificates(0.02)
    assert bool(expected.certified)
    assert np.all(np.delete(np.asarray(expected.lower), int(label)) > 0)
    for other in others:
        np.testing.assert_allclose(other.lower, expected.lower, atol=1e-6)
        assert bool(other.certified)
    assert not any(bool(c.certified) for c in certificates(2.0))
