"""Small models, data sets and comparisons that the tests of defenses and training share."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrobust.data import Dataset, assemble
from jaxrobust.data.synthetic import synthetic
from jaxrobust.models import from_linen
from jaxrobust.types import Array, Key, Model, PyTree, Variables

CLASSES = 4
SHAPE = (4, 4, 1)
SIZE = 16


def linear(classes: int = CLASSES) -> Model:
    """logits = x w + b in the dtype of `x`, without any library."""

    def init(key: Key, x: Array) -> Variables:
        size = int(np.prod(x.shape[1:]))
        w = jax.random.normal(key, (size, classes), x.dtype) / size**0.5
        return Variables({"w": w, "b": jnp.zeros(classes, x.dtype)})

    def apply(
        variables: Variables, x: Array, *, train: bool, key: Key | None, axes: tuple[str, ...]
    ) -> tuple[Array, PyTree]:
        del train, key, axes
        w, b = variables.params["w"], variables.params["b"]
        return x.reshape(len(x), -1) @ w + b[None], variables.stats

    return Model(init, apply)


class Net(nn.Module):
    """Dense, batch normalization, relu, dropout, dense."""

    axes: tuple[str, ...] = ()
    rate: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        x = nn.Dense(8, use_bias=False, dtype=self.dtype)(x.reshape(len(x), -1).astype(self.dtype))
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9, axis_name=self.axes or None)(
            x.astype(jnp.float32)
        ).astype(self.dtype)
        x = nn.Dropout(self.rate, deterministic=not train)(jax.nn.relu(x))
        return nn.Dense(CLASSES, dtype=self.dtype)(x).astype(jnp.float32)


def normalized(rate: float = 0.0, dtype: Any = jnp.float32) -> Model:
    """`Net` as a model."""
    return from_linen(Net(rate=rate, dtype=dtype))


def images(train: int = 64, test: int = 16) -> Dataset:
    """A separable data set of 4 x 4 images."""
    source = synthetic(train_size=train, test_size=test, classes=CLASSES, shape=SHAPE)
    return assemble("synthetic", source)


def sgd(rate: float = 0.1) -> optax.GradientTransformation:
    """SGD with momentum, which strict dtype promotion allows (Optax's Adam it does not)."""
    return optax.sgd(rate, momentum=0.9)


def plain(tree: PyTree) -> PyTree:
    """Host arrays; keys as their numbers."""

    def leaf(a: Any) -> np.ndarray:
        is_key = jnp.issubdtype(a.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(a) if is_key else a)

    return jax.tree.map(leaf, tree)


def assert_close(a: PyTree, b: PyTree, *, rtol: float = 0.0, atol: float = 0.0) -> None:
    """Same structure and shapes, values within the tolerances (default: the very same)."""
    a, b = plain(a), plain(b)
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, left), right in zip(
        jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True
    ):
        name = jax.tree_util.keystr(path)
        np.testing.assert_allclose(left, right, rtol=rtol, atol=atol, err_msg=name)


def untimed(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A history without its timings."""
    timings = ("seconds", "images_per_second")
    return [{n: v for n, v in row.items() if n not in timings} for row in history]
