"""Convolution that stays fast when differentiated on a CPU, inside loops and under `vmap`.

XLA's CPU convolution drops to a slow path inside `scan` and `while_loop` bodies, where every
attack lives (4 to 13 times slower there than outside, jax 0.10). Slices and one matrix product
are not affected, so the CPU lowering is built from those; accelerators get the native operation.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxrobust import checks
from jaxrobust.types import Array

Padding = str | int
"""`"SAME"`, `"VALID"`, or the number of zeros added on each side of both image axes."""

_Pads = tuple[tuple[int, int], tuple[int, int]]
_Pair = tuple[int, int]


def parameter_dtype(dtype: Any) -> Any:
    """The type parameters have under the compute type `dtype`: never below float32."""
    return dtype if jnp.finfo(dtype).bits > 32 else jnp.float32


def along_channels(values: Array, ndim: int = 4) -> Array:
    """`values` `[C]` along the last of `ndim` axes, where they multiply or join an image."""
    return values.reshape((1,) * (ndim - 1) + (-1,))


def _pads(x: Array, kernel: Array, strides: _Pair, padding: Padding) -> _Pads:
    if isinstance(padding, str):
        first, second = lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, padding)
        return first, second
    return (padding, padding), (padding, padding)


def native_convolution(x: Array, kernel: Array, strides: _Pair, pads: _Pads) -> Array:
    """XLA's own convolution; arguments and value as `patch_convolution`."""
    return lax.conv_general_dilated(
        x, kernel, strides, pads, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def patch_convolution(x: Array, kernel: Array, strides: _Pair, pads: _Pads) -> Array:
    """Cross-correlates `x` `[B, H, W, C]` with `kernel` `[kh, kw, C, F]` by one matrix product.

    Returns `[B, H', W', F]`. Plain affine operations only, so it differentiates any number of
    times and `jax.linear_transpose` accepts it. The patches, the numbers in each window, are kept
    for the kernel's gradient. Where strides divide the kernel, blocks of `strides[0]` image rows
    are gathered along W first; `_shifts_pay` says how to go on along H.
    """
    height, width, channels, features = kernel.shape
    down, across = strides
    rows = (x.shape[1] + sum(pads[0]) - height) // down + 1
    columns = (x.shape[2] + sum(pads[1]) - width) // across + 1
    used = ((rows - 1) * down + height, (columns - 1) * across + width)
    # the last pixels may belong to no window: a negative pad crops them
    ends = [(low, u - n - low, 0) for u, n, (low, _) in zip(used, x.shape[1:3], pads, strict=True)]
    x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *ends, (0, 0, 0)))
    if height % down or width % across:
        patches = _side_by_side(
            x[:, i : i + (rows - 1) * down + 1 : down, j : j + (columns - 1) * across + 1 : across]
            for i in range(height)
            for j in range(width)
        )
        return _product(patches, kernel.reshape(-1, features))
    x = x.reshape(len(x), used[0] // down, down, used[1] // across, across * channels)
    blocks = _side_by_side(
        x[:, :, i, j : j + columns] for i in range(down) for j in range(width // across)
    )
    return _along_rows(blocks, kernel.reshape(height // down, -1, features), rows)


def _along_rows(x: Array, kernel: Array, rows: int) -> Array:
    """Cross-correlates `[B, H, W, C]` with `kernel` `[n, C, F]` along H: `[B, rows, W, F]`."""
    size, channels, features = kernel.shape
    if not _shifts_pay(size, channels, features, rows):
        patches = _side_by_side(x[:, i : i + rows] for i in range(size))
        return _product(patches, kernel.reshape(-1, features))
    y = _product(x, kernel.swapaxes(0, 1).reshape(channels, -1))
    shifted = [y[:, i : i + rows, :, i * features : (i + 1) * features] for i in range(size)]
    return functools.reduce(jnp.add, shifted)


def _shifts_pay(size: int, channels: int, features: int, rows: int) -> bool:
    """Whether `_along_rows` multiplies each row by the whole kernel and adds the products, shifted.

    For each output pixel, windows of `size * channels` numbers are gathered, or products of
    `size * features` written, of which those of `size - 1` rows at the edge come on top. Moving a
    number takes as long as some 16 multiplications (docs/decisions/006-convolution.md).
    """
    saved = size * (channels - features)
    extra = size * channels * features * (size - 1) / rows
    return 0 < extra < 16 * saved


def _side_by_side(pieces: Iterable[Array]) -> Array:
    """Arrays of one shape, joined along the last axis.

    They are stacked on an axis before it, which XLA does in one pass. What it concatenates along
    the last axis it copies first, piece by piece.
    """
    pieces = list(pieces)
    if len(pieces) == 1:
        return pieces[0]
    *shape, channels = pieces[0].shape
    return jnp.stack(pieces, axis=-2).reshape(*shape, len(pieces) * channels)


def _product(x: Array, kernel: Array) -> Array:
    """`x @ kernel` by matrices: for more axes XLA copies the cotangent in the kernel's gradient."""
    return (x.reshape(-1, len(kernel)) @ kernel).reshape(*x.shape[:-1], kernel.shape[1])


def convolve(
    x: Array, kernel: Array, *, strides: _Pair = (1, 1), padding: Padding = "SAME"
) -> Array:
    """Cross-correlates images with a kernel.

    The lowering follows `jax.default_backend()` when traced: slices and a matrix product on
    "cpu", XLA's convolution elsewhere; the values agree to rounding. Differentiable to any order
    and linear in each argument.

    Args:
      x: images, `[B, H, W, C]`.
      kernel: `[kh, kw, C, F]`.
      strides: pixels from one window to the next, along H and along W.
      padding: "SAME", "VALID", or the number of zeros added on each side of both image axes.

    Returns:
      `[B, H', W', F]`, where H' counts the windows along H: `ceil(H / stride)` for "SAME", else
      `(H + 2 pad - kh) // stride + 1`, with a pad of 0 for "VALID"; W' likewise.

    Raises:
      ValueError: `x` is not `[B, H, W, C]` or smaller than the kernel, `kernel` is not
        `[kh, kw, C, F]`, or strides or padding are none of those above.
    """
    if kernel.ndim != 4 or not min(kernel.shape[:2]):
        raise ValueError(f"expected a kernel [kh, kw, C, F] of at least 1 x 1, got {kernel.shape}")
    if x.ndim != 4 or x.shape[-1] != kernel.shape[2]:
        raise ValueError(f"expected x [B, H, W, {kernel.shape[2]}], got shape {x.shape}")
    if not isinstance(strides, Sequence) or len(strides) != 2:
        raise ValueError(f"strides must be two numbers, along H and along W, got {strides!r}")
    for stride in strides:
        checks.at_least("a stride", stride, 1)
    if isinstance(padding, str):
        checks.choice("padding", padding, ("SAME", "VALID"))
    else:
        checks.at_least("a padding that is no name", padding, 0)
    pads = _pads(x, kernel, strides, padding)
    if any(n + sum(p) < k for n, p, k in zip(x.shape[1:3], pads, kernel.shape, strict=False)):
        raise ValueError(f"images {x.shape[1:3]} are smaller than the kernel {kernel.shape[:2]}")
    lower = patch_convolution if jax.default_backend() == "cpu" else native_convolution
    return lower(x, kernel, strides, pads)


class Conv(nn.Module):
    """`flax.linen.Conv` for images, by `convolve`: same parameters, names and initialization.

    `dtype` is the compute and output type; parameters are float32 (float64 under float64).
    Input `[B, H, W, C]`, output `[B, H', W', features]`. Errors as `convolve`. Differentiable.
    """

    features: int
    kernel_size: tuple[int, int] = (3, 3)
    strides: int = 1
    padding: Padding = "SAME"
    use_bias: bool = True
    dtype: Any = jnp.float32
    kernel_init: Callable[..., Array] = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: Array, affine: tuple[Array, Array] | None = None) -> Array:
        """Convolves `x` `[B, H, W, C]` and adds the bias.

        `affine`, scale and offset `[features]`, is applied to the result by way of kernel and
        bias.
        """
        stored = parameter_dtype(self.dtype)
        shape = (*self.kernel_size, x.shape[-1], self.features)
        kernel, bias = self.param("kernel", self.kernel_init, shape, stored), None
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), stored)
        if affine is not None:
            scale, offset = affine
            kernel = kernel * along_channels(scale)
            bias = offset if bias is None else bias * scale + offset
        strides = (self.strides, self.strides)
        y = convolve(
            x.astype(self.dtype), kernel.astype(self.dtype), strides=strides, padding=self.padding
        )
        return y if bias is None else y + along_channels(bias.astype(self.dtype))
