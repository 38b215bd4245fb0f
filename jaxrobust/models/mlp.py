"""Fully connected networks."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxrobust.models.layers import as_logits, dense, flatten, prepare, relu
from jaxrobust.types import Array


class MLP(nn.Module):
    """ReLU network of hidden layers `widths` on vectors or flattened images, for any data set.

    Input `[B, ...]` in raw units, output logits `[B, num_classes]`, at least float32. `dtype` is
    the compute type; `mean` and `std` normalize the last axis inside the model. Differentiable.
    """

    num_classes: int = 10
    widths: tuple[int, ...] = (256, 256)
    dtype: Any = jnp.float32
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Logits; the same in both modes."""
        x = flatten(prepare(x, self.mean, self.std, self.dtype))
        for index, width in enumerate(self.widths, 1):
            x = relu(dense(width, self.dtype, f"dense{index}")(x))
        return as_logits(dense(self.num_classes, self.dtype, f"dense{len(self.widths) + 1}")(x))
