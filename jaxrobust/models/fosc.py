"""The networks of dynamic adversarial training (FOSC)."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxrobust.models.convolution import Conv
from jaxrobust.models.layers import (
    as_logits,
    dense,
    flatten,
    max_pool,
    norm_layer,
    normalized,
    prepare,
    relu,
)
from jaxrobust.types import Array


class FoscCNN(nn.Module):
    """Blocks of 3 x 3 conv - batch norm - ReLU, a 2 x 2 pooling after each, then a hidden layer.

    Wang et al. 2019 ("On the convergence and robustness of adversarial training",
    section 5.1). `blocks` lists the features of each block's convolutions. Input `[B, H, W, C]`
    in raw units, output logits `[B, num_classes]`, at least float32. `dtype` is the compute type;
    `mean` and `std` normalize channels inside the model; `axes` names mapped axes over which
    training statistics are averaged. Differentiable. The released CIFAR code also normalizes the
    hidden layer; the paper, followed here, does not.
    """

    blocks: tuple[tuple[int, ...], ...]
    width: int
    num_classes: int = 10
    dtype: Any = jnp.float32
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    axes: tuple[str, ...] = ()

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Logits; `train` normalizes by the batch's statistics and renews the running ones."""
        x = prepare(x, self.mean, self.std, self.dtype)
        for b, block in enumerate(self.blocks, 1):
            for c, features in enumerate(block, 1):
                conv = Conv(
                    features,
                    dtype=self.dtype,
                    kernel_init=nn.initializers.he_normal(),
                    name=f"block{b}_conv{c}",
                )
                norm = norm_layer(self.axes, self.dtype, f"block{b}_norm{c}")
                x = relu(normalized(conv, norm, x, train=train))
            x = max_pool(x)
        x = relu(dense(self.width, self.dtype, "dense1")(flatten(x)))
        return as_logits(dense(self.num_classes, self.dtype, "dense2")(x))


def fosc_mnist(
    num_classes: int = 10,
    *,
    dtype: Any = jnp.float32,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> FoscCNN:
    """FOSC's 4-layer MNIST network: conv32, conv64, then 128 units.

    `dtype`, `mean` and `std` are `FoscCNN`'s.
    """
    return FoscCNN(((32,), (64,)), 128, num_classes, dtype, mean, std)


def fosc_cifar(
    num_classes: int = 10,
    *,
    dtype: Any = jnp.float32,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> FoscCNN:
    """FOSC's 8-layer CIFAR network: 2 x 64, 2 x 128, 2 x 196 features, then 256 units.

    Feature counts are from the released code; `dtype`, `mean` and `std` are `FoscCNN`'s.
    """
    return FoscCNN(((64, 64), (128, 128), (196, 196)), 256, num_classes, dtype, mean, std)
