"""Residual networks in the CIFAR style."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxrobust.models.layers import as_logits, conv_norm, dense, prepare, relu
from jaxrobust.types import Array


class ResNet(nn.Module):
    """Post-activation residual network of basic blocks; the defaults are ResNet-18.

    He et al. 2015 (arXiv:1512.03385, section 4.2) as used for CIFAR: 3 x 3 stem without pooling,
    stages of `features` with `blocks` blocks each, every stage after the first halving the image,
    1 x 1 convolution shortcuts where shapes change, a global average. ResNet-18 has 11,173,962
    parameters on 3 channels. Input `[B, H, W, C]` in raw units, any size; output logits
    `[B, num_classes]`, at least float32. `dtype` is the compute type; `mean` and `std` normalize
    channels inside the model; `axes` names mapped axes over which training statistics are
    averaged. Differentiable.
    """

    num_classes: int = 10
    features: tuple[int, ...] = (64, 128, 256, 512)
    blocks: int = 2
    dtype: Any = jnp.float32
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    axes: tuple[str, ...] = ()

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Logits; `train` normalizes by the batch's statistics and renews the running ones."""

        step = functools.partial(conv_norm, train=train, axes=self.axes, dtype=self.dtype)
        x = prepare(x, self.mean, self.std, self.dtype)
        x = relu(step(x, self.features[0], 3, 1, "stem"))
        for s, features in enumerate(self.features, 1):
            for b in range(1, self.blocks + 1):
                name, stride = f"stage{s}_block{b}", 2 if s > 1 and b == 1 else 1
                h = relu(step(x, features, 3, stride, f"{name}_first"))
                h = step(h, features, 3, 1, f"{name}_second")
                if stride != 1 or x.shape[-1] != features:
                    x = step(x, features, 1, stride, f"{name}_shortcut")
                x = relu(h + x)
        return as_logits(dense(self.num_classes, self.dtype, "dense")(x.mean((1, 2))))
