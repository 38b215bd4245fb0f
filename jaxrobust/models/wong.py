"""The networks of Wong et al. (2018), arXiv:1805.12514, beyond the small and the large one."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxrobust import checks
from jaxrobust.models.convnet import ConvNet, ConvSpec
from jaxrobust.models.convolution import Conv
from jaxrobust.models.layers import as_logits, dense, flatten, he_fan_out, prepare, relu
from jaxrobust.types import Array


def wong_wide(
    num_classes: int = 10,
    *,
    width: int = 1,
    dtype: Any = jnp.float32,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> ConvNet:
    """Wide(k): convolutions of 4k and 8k features, 4 x 4 with stride 2, then 128k units.

    Section 3.5.3 of Wong's thesis, `width` being k. `dtype`, `mean` and `std` are
    `ConvNet`'s. ValueError unless `width` is at least 1.
    """
    checks.at_least("width", width, 1)
    convs = ((4 * width, 4, 2), (8 * width, 4, 2))
    return ConvNet(convs, (128 * width,), num_classes, dtype, mean, std)


def wong_deep(
    num_classes: int = 10,
    *,
    depth: int = 1,
    dtype: Any = jnp.float32,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> ConvNet:
    """Deep(k): k convolutions of 8 features, k of 16, then 100 units; Wide's opposite.

    The last convolution of each group is 4 x 4 with stride 2, those before it 3 x 3. Section 3.5.3
    of Wong's thesis, `depth` being k, the kernels after the released code. `dtype`, `mean`
    and `std` are `ConvNet`'s. ValueError unless `depth` is at least 1.
    """
    checks.at_least("depth", depth, 1)
    groups: list[ConvSpec] = []
    for features in (8, 16):
        groups += [(features, 3, 1)] * (depth - 1) + [(features, 4, 2)]
    return ConvNet(tuple(groups), (100,), num_classes, dtype, mean, std)


class WongResNet(nn.Module):
    """Wong's residual network: a 3 x 3 convolution, a block for each of `features`, `width` units.

    A block is relu(conv3(relu(conv(x))) + skip(x)). One that keeps the number of features has a
    3 x 3 first convolution and a 1 x 1 skip; another halves the image, by 4 x 4 and 2 x 2 with
    stride 2. All convolutions have biases, skips too, and nothing is normalized. 3,254,562
    parameters on 28 x 28 x 1 images and 4,214,850 on 32 x 32 x 3 (Wong's thesis, table 3.4; section
    3.5 and the released code). Input `[B, H, W, C]` in raw units, output logits `[B, num_classes]`,
    at least float32. `dtype` is the compute type; `mean` and `std` normalize channels inside the
    model. Differentiable.
    """

    num_classes: int = 10
    features: tuple[int, ...] = (16, 16, 32, 64)
    width: int = 1000
    dtype: Any = jnp.float32
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Logits; the same in both modes."""

        def conv(x: Array, features: int, side: int, stride: int, pad: int, name: str) -> Array:
            return Conv(
                features,
                (side, side),
                strides=stride,
                padding=pad,
                dtype=self.dtype,
                kernel_init=he_fan_out,
                name=name,
            )(x)

        x = prepare(x, self.mean, self.std, self.dtype)
        x = relu(conv(x, self.features[0], 3, 1, 1, "stem"))
        for index, features in enumerate(self.features, 1):
            first, skip, stride = (3, 1, 1) if x.shape[-1] == features else (4, 2, 2)
            name = f"block{index}"
            h = relu(conv(x, features, first, stride, 1, f"{name}_conv1"))
            h = conv(h, features, 3, 1, 1, f"{name}_conv2")
            x = relu(h + conv(x, features, skip, stride, 0, f"{name}_skip"))
        x = relu(dense(self.width, self.dtype, "dense1")(flatten(x)))
        return as_logits(dense(self.num_classes, self.dtype, "dense2")(x))
