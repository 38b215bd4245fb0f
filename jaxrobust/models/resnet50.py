"""Residual networks of bottlenecks, for images of hundreds of pixels."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import lax

from jaxrobust.models.layers import as_logits, conv_norm, dense, prepare, relu
from jaxrobust.types import Array

EXPANSION = 4
"""Features of a block's output, by those of its 3 x 3 convolution."""


class ResNet50(nn.Module):
    """Post-activation residual network of bottleneck blocks; the defaults are ResNet-50.

    He et al. 2015 (arXiv:1512.03385, section 4.1): a 7 x 7 stem with stride 2, 3 x 3 maxima with
    stride 2, stages of `blocks` blocks, every stage after the first halving the image and doubling
    the features, a global average. A block is 1 x 1, 3 x 3 and 1 x 1 convolutions, the last with 4
    times the features; as in common implementations ("v1.5") the 3 x 3 one has the stride. With
    1000 classes it has 25,557,032 parameters on 3 channels. `width` is the number of features of
    the stem. Input `[B, H, W, C]` in raw units, any size; output logits `[B, num_classes]`, at
    least float32. `dtype` is the compute type; `mean` and `std` normalize channels inside the
    model; `axes` names mapped axes over which training statistics are averaged. Differentiable.
    """

    num_classes: int = 1000
    width: int = 64
    blocks: tuple[int, ...] = (3, 4, 6, 3)
    dtype: Any = jnp.float32
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    axes: tuple[str, ...] = ()

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Logits; `train` normalizes by the batch's statistics and renews the running ones."""

        step = functools.partial(conv_norm, train=train, axes=self.axes, dtype=self.dtype)
        x = prepare(x, self.mean, self.std, self.dtype)
        x = overlapping_max_pool(relu(step(x, self.width, 7, 2, "stem")))
        for s, count in enumerate(self.blocks, 1):
            features = self.width * 2 ** (s - 1)
            for b in range(1, count + 1):
                name, stride = f"stage{s}_block{b}", 2 if s > 1 and b == 1 else 1
                h = relu(step(x, features, 1, 1, f"{name}_first"))
                h = relu(step(h, features, 3, stride, f"{name}_second"))
                h = step(h, EXPANSION * features, 1, 1, f"{name}_third")
                if b == 1:
                    x = step(x, EXPANSION * features, 1, stride, f"{name}_shortcut")
                x = relu(h + x)
        return as_logits(dense(self.num_classes, self.dtype, "dense")(x.mean((1, 2))))


def overlapping_max_pool(x: Array) -> Array:
    """Maxima of 3 x 3 blocks, 2 apart and one over each edge: `[B, H, W, C]` -> `[B, ⌈H/2⌉, ...]`.

    Maxima along columns of those along rows, each of three slices, for the reason in `max_pool`.
    Ties share the gradient.
    """
    for axis in (1, 2):
        pads = [(0, 0, 0)] * 4
        # One more at the end of an even side belongs to no block.
        pads[axis] = (1, 1, 0)
        size = -(-x.shape[axis] // 2)
        padded = lax.pad(x, jnp.asarray(-jnp.inf, x.dtype), pads)
        first, second, third = (
            lax.slice_in_dim(padded, i, i + 2 * size - 1, stride=2, axis=axis) for i in range(3)
        )
        x = lax.max(lax.max(first, second), third)
    return x
