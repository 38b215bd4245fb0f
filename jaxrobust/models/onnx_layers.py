"""ONNX operators of layers: dense ones, convolutions, poolings, batch normalization."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxrobust.models.convolution import convolve
from jaxrobust.models.onnx_operation import Operation, Operator, Value, aligned, library
from jaxrobust.models.onnx_windows import Windows, shares, windows
from jaxrobust.types import Array


def _matmul(operation: Operation, a: Value, b: Value) -> Value:
    if min(a.ndim, b.ndim) > 1:
        a, b = aligned(a, b)
    return library(a, b).matmul(a, b)


def _gemm(operation: Operation, a: Value, b: Value, c: Value | None = None) -> Value:
    a = a.T if operation.get("transA", 0) else a
    b = b.T if operation.get("transB", 0) else b
    y = _scaled(operation.get("alpha", 1.0), jnp.matmul(a, b))
    if c is None:
        return y
    y, c = aligned(y, _scaled(operation.get("beta", 1.0), c))
    return jnp.add(y, c)


def _scaled(factor: float, value: Value) -> Value:
    return value if factor == 1 else factor * value


def _convolution(operation: Operation, x: Value, kernel: Value, bias: Value | None = None) -> Array:
    x, kernel = jnp.asarray(x), jnp.asarray(kernel)
    where = windows(operation, x.shape[2:], kernel.shape[2:])
    groups = operation.get("group", 1)
    if x.shape[1] != groups * kernel.shape[1]:
        raise ValueError(f"{x.shape[1]} channels for a kernel {kernel.shape} of {groups} groups")
    if x.ndim == 4 and groups == 1 and set(where.dilations) == {1}:
        y = _images(x, kernel, where)
    else:
        y = lax.conv_general_dilated(
            x, kernel, where.strides, where.pads,
            rhs_dilation=where.dilations, feature_group_count=groups,
        )  # fmt: skip
    return y if bias is None else y + _channels(bias, y)


def _images(x: Array, kernel: Array, where: Windows) -> Array:
    """By the convolution that is fast in loops; its images have channels last."""
    padded = lax.pad(
        x, jnp.zeros((), x.dtype), ((0, 0, 0), (0, 0, 0), *((*p, 0) for p in where.pads))
    )
    y = convolve(
        padded.transpose(0, 2, 3, 1),
        kernel.transpose(2, 3, 1, 0),
        strides=where.strides,  # pyright: ignore[reportArgumentType]
        padding="VALID",
    )
    return y.transpose(0, 3, 1, 2)


def _transposed(operation: Operation, x: Value, kernel: Value, bias: Value | None = None) -> Array:
    x, kernel = jnp.asarray(x), jnp.asarray(kernel)
    rank, groups = x.ndim - 2, operation.get("group", 1)
    strides, dilations, extra = (
        operation.get(name, default)
        for name, default in (
            ("strides", (1,) * rank), ("dilations", (1,) * rank), ("output_padding", (0,) * rank)
        )
    )  # fmt: skip
    told, mode = operation.get("pads", (0,) * (2 * rank)), operation.get("auto_pad", "NOTSET")
    wanted = operation.get("output_shape")
    if wanted is None and mode in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [n * s for n, s in zip(x.shape[2:], strides, strict=True)]
    pads = []
    for axis in range(rank):
        n, k = x.shape[2 + axis], kernel.shape[2 + axis]
        s, d, more = strides[axis], dilations[axis], extra[axis]
        low, high = told[axis], told[rank + axis]
        if wanted is not None:
            total = s * (n - 1) + more + (k - 1) * d + 1 - wanted[-rank:][axis]
            low, high = total // 2, total - total // 2
            if mode != "SAME_UPPER":
                low, high = high, low
        pads.append(((k - 1) * d - low, (k - 1) * d - high + more))
    # [C, F / groups, ...] -> [F, C / groups, ...], turned around
    split = kernel.reshape(groups, -1, *kernel.shape[1:])
    turned = jnp.flip(jnp.swapaxes(split, 1, 2), tuple(range(3, 3 + rank)))
    y = lax.conv_general_dilated(
        x, turned.reshape(-1, *turned.shape[2:]), (1,) * rank, pads,
        lhs_dilation=tuple(strides), rhs_dilation=tuple(dilations), feature_group_count=groups,
    )  # fmt: skip
    return y if bias is None else y + _channels(bias, y)


def _channels(values: Value, like: Value) -> Value:
    """One number for each channel, along the second axis."""
    return values.reshape(1, -1, *(1,) * (like.ndim - 2))


def _pooled(pool: Callable[[Operation, Array, Windows], Array]) -> Operator:
    def run(operation: Operation, x: Value) -> Array:
        where = windows(operation, x.shape[2:], operation.get("kernel_shape", ()))
        return pool(operation, jnp.asarray(x), where)

    return run


def _max_pool(operation: Operation, x: Array, where: Windows) -> Array:
    """A tree of pairwise maxima: XLA's windowed reduction differentiates slowly on a CPU."""
    del operation
    pads = [(0, 0), (0, 0), *where.pads]
    if all(max(p) < k for p, k in zip(where.pads, where.kernel, strict=True)) and (
        set(where.dilations) == {1} or not np.any(where.pads)
    ):
        # a repeated edge pixel lies in the window already: it stands in for -inf
        x = jnp.pad(x, pads, mode="edge")
    else:
        x = jnp.pad(x, pads, constant_values=-np.inf)
    parts = []
    for offset in np.ndindex(*where.kernel):
        start = [o * d for o, d in zip(offset, where.dilations, strict=True)]
        stop = [
            b + (c - 1) * s + 1 for b, c, s in zip(start, where.counts, where.strides, strict=True)
        ]
        parts.append(lax.slice(x, (0, 0, *start), (*x.shape[:2], *stop), (1, 1, *where.strides)))
    while len(parts) > 1:
        pairs = zip(parts[::2], parts[1::2], strict=False)
        parts = [lax.max(a, b) for a, b in pairs] + parts[len(parts) - len(parts) % 2 :]
    return parts[0]


def _average_pool(operation: Operation, x: Array, where: Windows) -> Array:
    sums = lax.reduce_window(
        x, np.zeros((), x.dtype), lax.add,
        (1, 1, *where.kernel), (1, 1, *where.strides), ((0, 0), (0, 0), *where.pads),
        window_dilation=(1, 1, *where.dilations),
    )  # fmt: skip
    padded = bool(operation.get("count_include_pad", 0))
    share = shares(operation, where, x.shape[2:], padded=padded)
    return sums / share.astype(x.dtype)[None, None]


def _over_images(name: str) -> Operator:
    def run(operation: Operation, x: Value) -> Array:
        return getattr(jnp, name)(jnp.asarray(x), axis=tuple(range(2, x.ndim)), keepdims=True)

    return run


def _normalized(
    operation: Operation, x: Value, scale: Value, shift: Value, mean: Value, variance: Value
) -> Array:
    if operation.get("training_mode", 0):
        raise ValueError("it normalizes by the batch; export the network in evaluation mode")
    slope = jnp.asarray(scale) / jnp.sqrt(jnp.asarray(variance) + operation.get("epsilon", 1e-5))
    return (jnp.asarray(x) - _channels(mean, x)) * _channels(slope, x) + _channels(shift, x)


LAYERS: dict[str, Operator] = {
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Conv": _convolution,
    "ConvTranspose": _transposed,
    "MaxPool": _pooled(_max_pool),
    "AveragePool": _pooled(_average_pool),
    "GlobalAveragePool": _over_images("mean"),
    "GlobalMaxPool": _over_images("max"),
    "BatchNormalization": _normalized,
}
"""ONNX' name -> what runs."""
