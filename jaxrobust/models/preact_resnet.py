"""Pre-activation residual networks, narrow and wide: one family."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxrobust import checks
from jaxrobust.models.convolution import Conv
from jaxrobust.models.layers import (
    as_logits,
    batch_norm,
    dense,
    he_fan_out,
    norm_layer,
    normalized,
    prepare,
    relu,
    torch_bias,
    torch_uniform,
)
from jaxrobust.types import Array

SHORTCUTS = ("activated", "raw")
ACTIVATIONS = {"relu": relu, "silu": nn.silu}
PADDINGS = ("symmetric", "same")
INITIALIZATIONS = {"he": he_fan_out, "torch": torch_uniform}
"""Initializations of convolutions."""


class PreActResNet(nn.Module):
    """Residual network whose blocks normalize before they convolve; the defaults are depth 18.

    He et al. 2016 (arXiv:1603.05027) and, with wider stages, Zagoruyko and Komodakis 2016
    (arXiv:1605.07146). Stages of `features` with `blocks` blocks each, every stage after the
    first halving the image; where shapes change, the shortcut is a 1 x 1 convolution of
    relu(bn(x)) ("activated", as in the robust-overfitting code) or of the block's input x itself
    ("raw", as in the fast-adversarial, GradAlign and N-FGSM codes); a final batch norm and ReLU
    (none without `final_norm`, as in a common CIFAR code), then a global average. Gowal et al. 2020
    (arXiv:2010.03593) use the `activation` "silu" for "relu", `padding` "same" (where an image is
    halved, one zero after it and none before) for "symmetric", and, in their narrow network, a
    shortcut with a kernel of `shortcut_side` 3. `initialization` of convolutions and of the dense
    layer: "he" draws the former from N(0, 2 / fan out), "torch" is PyTorch's default,
    U(-1, 1) / sqrt(fan in) for all, the dense bias included. Input `[B, H, W, C]` in raw units,
    any size; output logits `[B, num_classes]`, at least float32. `dtype` is the compute type;
    `mean` and `std` normalize channels inside the model; `axes` names mapped axes over which
    training statistics are averaged. Differentiable. Raises ValueError for an unknown shortcut,
    activation, padding or initialization.
    """

    num_classes: int = 10
    stem: int = 64
    features: tuple[int, ...] = (64, 128, 256, 512)
    blocks: int = 2
    shortcut: str = "activated"
    shortcut_side: int = 1
    final_norm: bool = True
    activation: str = "relu"
    padding: str = "symmetric"
    initialization: str = "he"
    dtype: Any = jnp.float32
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    axes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        checks.choice("shortcut", self.shortcut, SHORTCUTS)
        checks.choice("activation", self.activation, ACTIVATIONS)
        checks.choice("padding", self.padding, PADDINGS)
        checks.choice("initialization", self.initialization, INITIALIZATIONS)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Logits; `train` normalizes by the batch's statistics and renews the running ones."""
        kernel_init = INITIALIZATIONS[self.initialization]

        def conv(features: int, side: int, stride: int, name: str) -> Conv:
            return Conv(
                features,
                (side, side),
                strides=stride,
                padding="SAME" if self.padding == "same" else side // 2,
                use_bias=False,
                dtype=self.dtype,
                kernel_init=kernel_init,
                name=name,
            )

        def norm(name: str) -> nn.BatchNorm:
            return norm_layer(self.axes, self.dtype, name)

        activation = ACTIVATIONS[self.activation]

        x = prepare(x, self.mean, self.std, self.dtype)
        x = conv(self.stem, 3, 1, "stem_conv")(x)
        for s, features in enumerate(self.features, 1):
            for b in range(1, self.blocks + 1):
                name, stride = f"stage{s}_block{b}", 2 if s > 1 and b == 1 else 1
                h = activation(batch_norm(norm(f"{name}_norm1"), x, train=train))
                if stride != 1 or x.shape[-1] != features:
                    seen = h if self.shortcut == "activated" else x
                    x = conv(features, self.shortcut_side, stride, f"{name}_shortcut")(seen)
                first = conv(features, 3, stride, f"{name}_conv1")
                h = activation(normalized(first, norm(f"{name}_norm2"), h, train=train))
                x = x + conv(features, 3, 1, f"{name}_conv2")(h)
        if self.final_norm:
            x = activation(batch_norm(norm("final_norm"), x, train=train))
        own = {}
        if self.initialization == "torch":
            own = {"kernel_init": kernel_init, "bias_init": torch_bias(x.shape[-1])}
        return as_logits(dense(self.num_classes, self.dtype, "dense", **own)(x.mean((1, 2))))


def wide_resnet(
    num_classes: int = 10,
    *,
    depth: int = 34,
    width: int = 10,
    shortcut: str = "activated",
    activation: str = "relu",
    padding: str = "symmetric",
    initialization: str = "he",
    dtype: Any = jnp.float32,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> PreActResNet:
    """WideResNet-`depth`-`width` without dropout; 34-10 has 46,160,474 parameters.

    Raises ValueError unless `depth` is 6 n + 4 with n >= 1 and `width` at least 1. The other
    arguments are `PreActResNet`'s.
    """
    if depth < 10 or (depth - 4) % 6:
        raise ValueError(
            f"depth must be 6 n + 4 with n >= 1 (10, 16, 22, 28, 34, ...), got {depth}"
        )
    if width < 1:
        raise ValueError(f"width must be at least 1, got {width}")
    features = (16 * width, 32 * width, 64 * width)
    return PreActResNet(
        num_classes,
        16,
        features,
        (depth - 4) // 6,
        shortcut=shortcut,
        activation=activation,
        padding=padding,
        initialization=initialization,
        dtype=dtype,
        mean=mean,
        std=std,
    )
