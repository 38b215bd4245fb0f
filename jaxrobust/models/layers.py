"""Pieces the reference networks share: input scaling, pooling, batch normalization, the head."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxrobust.models.convolution import Conv, along_channels, parameter_dtype
from jaxrobust.types import Array, Key

he_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
"""N(0, 2 / (kh kw F)), the convolution initialization of Wong's and the residual networks."""

torch_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""U(-1, 1) / sqrt(fan in), PyTorch's default for the kernels of convolutions and dense layers."""

_lecun = nn.initializers.lecun_normal()


def prepare(
    x: Array, mean: tuple[float, ...] | None, std: tuple[float, ...] | None, dtype: Any
) -> Array:
    """`(x - mean) / std` along the last axis, in at least float32, then cast to `dtype`.

    Either may be None. Attacks and radii stay in raw pixels because the model does this itself.
    Raises ValueError where a tuple's length is neither 1 nor the number of channels.
    """
    x = x.astype(parameter_dtype(dtype))
    for name, values, combine in (("mean", mean, jnp.subtract), ("std", std, jnp.divide)):
        if values is None:
            continue
        if len(values) not in (1, x.shape[-1]):
            raise ValueError(f"{name} has {len(values)} entries for {x.shape[-1]} channels")
        x = combine(x, jnp.asarray(values, x.dtype).reshape((1,) * (x.ndim - 1) + (-1,)))
    return x.astype(dtype)


def max_pool(x: Array) -> Array:
    """Maxima of 2 x 2 blocks; odd edges are dropped.

    A tree of pairwise maxima: XLA's windowed reduction differentiates 14 times slower on a CPU.
    Ties share the gradient evenly (a subgradient) where PyTorch picks the first.

    Args:
      x: `[B, H, W, C]`, with H and W of at least 2.

    Returns:
      The maxima, `[B, H // 2, W // 2, C]`, in the dtype of `x`.

    Raises:
      ValueError: `x` is not `[B, H, W, C]`, or smaller than a block.
    """
    if x.ndim != 4 or min(x.shape[1:3]) < 2:
        raise ValueError(
            f"pooling 2 x 2 blocks needs x [B, H, W, C] with H and W of at least 2, got shape "
            f"{x.shape}; give the network larger images or fewer poolings"
        )
    batch, height, width, channels = x.shape
    rows, columns = 2 * (height // 2), 2 * (width // 2)
    corners = [
        lax.slice(x, (0, i, j, 0), (batch, rows - 1 + i, columns - 1 + j, channels), (1, 2, 2, 1))
        for i in (0, 1)
        for j in (0, 1)
    ]
    return lax.max(lax.max(corners[0], corners[1]), lax.max(corners[2], corners[3]))


@jax.custom_jvp
def relu(x: Array) -> Array:
    """`max(x, 0)`, whose derivative is read off the value.

    As `jax.nn.relu`, whose derivative asks for the argument again: on a GPU that makes another
    pass compute once more what came before, a normalization for example.
    """
    return jnp.maximum(x, 0)


@relu.defjvp
def _relu_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (tangent,) = primals, tangents
    y = relu(x)
    # XLA turns max(x, 0) > 0 back into x > 0, which would keep it from joining the maximum with a
    # convolution on GPUs.
    return y, jnp.where(y != 0, tangent, jnp.zeros_like(tangent))


def norm_layer(axes: tuple[str, ...], dtype: Any, name: str) -> nn.BatchNorm:
    """Batch normalization with PyTorch's constants, in at least float32.

    In training mode statistics are means over all axes but the last and over the mapped axes
    named in `axes`. Known deviation from PyTorch: the running variance averages the biased batch
    variance.
    """
    stored = parameter_dtype(dtype)
    return nn.BatchNorm(
        momentum=0.9,
        epsilon=1e-5,
        dtype=stored,
        param_dtype=stored,
        # several axes at once, which Flax passes on to JAX
        axis_name=cast(Any, axes or None),
        force_float32_reductions=False,
        name=name,
    )


def batch_norm(norm: nn.BatchNorm, x: Array, *, train: bool) -> Array:
    """`x` `[..., C]` normalized by `norm`, in the dtype of `x`; inside a compact linen method."""
    wide = x.astype(norm.dtype)
    if train or norm.is_initializing():
        return norm(wide, use_running_average=not train).astype(x.dtype)
    scale, offset = (along_channels(a, x.ndim) for a in _affine(norm))
    return (wide * scale + offset).astype(x.dtype)


def _affine(norm: nn.BatchNorm) -> tuple[Array, Array]:
    """Scale and offset `[C]` of a normalization by running statistics.

    They depend on the variables alone, so that attacks compute them once (see `hoisting`).
    """
    learned, running = norm.variables["params"], norm.variables["batch_stats"]
    scale = learned["scale"] * lax.rsqrt(running["var"] + norm.epsilon)
    return scale, learned["bias"] - running["mean"] * scale


def normalized(conv: Conv, norm: nn.BatchNorm, x: Array, *, train: bool) -> Array:
    """A convolution, then a normalization; inside a compact linen method.

    In evaluation mode they are one convolution, which saves a pass over the image.
    """
    if train or norm.is_initializing():
        return batch_norm(norm, conv(x), train=train)
    return conv(x, _affine(norm))


def conv_norm(
    x: Array,
    features: int,
    side: int,
    stride: int,
    name: str,
    *,
    train: bool,
    axes: tuple[str, ...],
    dtype: Any,
) -> Array:
    """A square convolution, then batch normalization, as `normalized`."""
    conv = Conv(
        features,
        (side, side),
        strides=stride,
        padding=side // 2,
        use_bias=False,
        dtype=dtype,
        kernel_init=he_fan_out,
        name=f"{name}_conv",
    )
    return normalized(conv, norm_layer(axes, dtype, f"{name}_norm"), x, train=train)


def dense(
    features: int,
    dtype: Any,
    name: str,
    kernel_init: Callable[..., Array] = _lecun,
    bias_init: Callable[..., Array] = nn.initializers.zeros,
) -> nn.Dense:
    """A `flax.linen.Dense` that computes in `dtype` with parameters of at least float32."""
    return nn.Dense(
        features,
        dtype=dtype,
        param_dtype=parameter_dtype(dtype),
        name=name,
        kernel_init=kernel_init,
        bias_init=bias_init,
    )


def torch_bias(fan_in: int) -> Callable[..., Array]:
    """U(-1, 1) / sqrt(fan in), PyTorch's default for the biases of a layer of `fan_in` inputs."""
    bound = fan_in**-0.5

    def init(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, minval=-bound, maxval=bound)

    return init


def flatten(x: Array) -> Array:
    """`[B, ...]` -> `[B, D]`, row by row and channels last."""
    return x.reshape(len(x), -1)


def as_logits(x: Array) -> Array:
    """Logits in at least float32, whatever type the network computed in."""
    return x.astype(parameter_dtype(x.dtype))
