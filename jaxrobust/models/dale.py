"""The MNIST network of DALE's released experiments."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxrobust.models.convolution import Conv
from jaxrobust.models.layers import as_logits, dense, flatten, max_pool, prepare, relu
from jaxrobust.types import Array


class DaleMnist(nn.Module):
    """conv32, conv64 (3 x 3, valid), 2 x 2 pooling, 128 units, with dropout; 1,199,882 parameters.

    Robey et al. 2021 (DALE, arXiv:2110.15767), released code. Input `[B, H, W, C]` in raw units,
    output logits `[B, num_classes]`, at least float32. `dtype` is the compute type; `mean` and
    `std` normalize channels inside the model. Training mode draws dropout from the "dropout"
    stream. Differentiable. Raises ValueError where `x` is no batch of large enough images.
    """

    num_classes: int = 10
    dtype: Any = jnp.float32
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Logits; `train` switches dropout (rates .25 and .5) on."""
        x = prepare(x, self.mean, self.std, self.dtype)
        for index, features in enumerate((32, 64), 1):
            conv = Conv(features, padding="VALID", dtype=self.dtype, name=f"conv{index}")
            x = relu(conv(x))
        x = nn.Dropout(0.25, deterministic=not train)(max_pool(x))
        x = relu(dense(128, self.dtype, "dense1")(flatten(x)))
        x = nn.Dropout(0.5, deterministic=not train)(x)
        return as_logits(dense(self.num_classes, self.dtype, "dense2")(x))
