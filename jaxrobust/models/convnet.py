"""Plain convolution-ReLU networks: Wong's small and large ones, and one for 8 x 8 digits."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxrobust import checks
from jaxrobust.models.convolution import Conv
from jaxrobust.models.layers import as_logits, dense, flatten, he_fan_out, prepare, relu
from jaxrobust.types import Array

ConvSpec = tuple[int, int, int]
"""Features, kernel side and stride of a convolution with one zero of padding on each side."""


class ConvNet(nn.Module):
    """Convolutions `convs`, then hidden layers `widths`, a ReLU after each; no normalization.

    The family of Wong and Kolter (2018, arXiv:1711.00851, section 5), whose bounds need networks
    of affine layers and ReLUs. Input `[B, H, W, C]` in raw units, output logits
    `[B, num_classes]`, at least float32. `dtype` is the compute type; `mean` and `std` normalize
    channels inside the model. Differentiable. Raises ValueError where `x` is no batch of images.
    """

    convs: tuple[ConvSpec, ...]
    widths: tuple[int, ...]
    num_classes: int = 10
    dtype: Any = jnp.float32
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Logits; the same in both modes."""
        x = prepare(x, self.mean, self.std, self.dtype)
        for index, (features, side, stride) in enumerate(self.convs, 1):
            conv = Conv(
                features,
                (side, side),
                strides=stride,
                padding=1,
                dtype=self.dtype,
                kernel_init=he_fan_out,
                name=f"conv{index}",
            )
            x = relu(conv(x))
        x = flatten(x)
        for index, width in enumerate(self.widths, 1):
            x = relu(dense(width, self.dtype, f"dense{index}")(x))
        return as_logits(dense(self.num_classes, self.dtype, f"dense{len(self.widths) + 1}")(x))


def wong_small(
    num_classes: int = 10,
    *,
    dtype: Any = jnp.float32,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> ConvNet:
    """Wong's small network: conv16 and conv32, 4 x 4 with stride 2, then 100 units.

    166,406 parameters on 28 x 28 x 1 images; `dtype`, `mean` and `std` are `ConvNet`'s.
    """
    return ConvNet(((16, 4, 2), (32, 4, 2)), (100,), num_classes, dtype, mean, std)


def wong_large(
    num_classes: int = 10,
    *,
    dtype: Any = jnp.float32,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> ConvNet:
    """Wong's large network (Wong et al. 2018, arXiv:1805.12514, appendix): 4 convs, 2 x 512 units.

    1,974,762 parameters on 28 x 28 x 1 images; `dtype`, `mean` and `std` are `ConvNet`'s.
    """
    convs = ((32, 3, 1), (32, 4, 2), (64, 3, 1), (64, 4, 2))
    return ConvNet(convs, (512, 512), num_classes, dtype, mean, std)


def single_conv(
    num_classes: int = 10,
    *,
    filters: int = 4,
    dtype: Any = jnp.float32,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> ConvNet:
    """One 3 x 3 convolution of `filters` features and a dense layer.

    As small as a network gets in which single-step training overfits catastrophically
    (Andriushchenko and Flammarion 2020, arXiv:2007.02617, section 4.3, with 4 filters). `dtype`,
    `mean` and `std` are `ConvNet`'s. ValueError unless `filters` is at least 1.
    """
    checks.at_least("filters", filters, 1)
    return ConvNet(((filters, 3, 1),), (), num_classes, dtype, mean, std)


def digits_cnn(
    num_classes: int = 10,
    *,
    dtype: Any = jnp.float32,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> ConvNet:
    """A network for 8 x 8 x 1 digits that trains in seconds on a CPU.

    `dtype`, `mean` and `std` are `ConvNet`'s.
    """
    return ConvNet(((16, 3, 1), (32, 4, 2)), (64,), num_classes, dtype, mean, std)
