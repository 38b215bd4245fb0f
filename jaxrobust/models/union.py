"""The MNIST network that is trained against a union of norms."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxrobust.models.convolution import Conv
from jaxrobust.models.layers import as_logits, dense, flatten, max_pool, prepare, relu
from jaxrobust.types import Array


class UnionMnist(nn.Module):
    """conv32 and conv64 (5 x 5, padding 2), each pooled 2 x 2, then 1024 units; 3,274,634 weights.

    Madry et al.'s MNIST network; Maini et al. 2020 and Wong's thesis, section 5.4.1. Input
    `[B, H, W, C]` in raw units, output logits `[B, num_classes]`, at least float32. `dtype` is the
    compute type; `mean` and `std` normalize channels inside the model. Differentiable. Raises
    ValueError where `x` is no batch of large enough images.
    """

    num_classes: int = 10
    dtype: Any = jnp.float32
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Logits; the same in both modes."""
        x = prepare(x, self.mean, self.std, self.dtype)
        for index, features in enumerate((32, 64), 1):
            conv = Conv(features, (5, 5), padding=2, dtype=self.dtype, name=f"conv{index}")
            x = max_pool(relu(conv(x)))
        x = relu(dense(1024, self.dtype, "dense1")(flatten(x)))
        return as_logits(dense(self.num_classes, self.dtype, "dense2")(x))
