"""Operations replaced by the same function of affine steps and ReLUs (or another known node)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxrobust.types import Array


def _max(x: Array, y: Array) -> Array:
    return y + jax.nn.relu(x - y)


def _min(x: Array, y: Array) -> Array:
    return x - jax.nn.relu(x - y)


def _abs(x: Array) -> Array:
    return jax.nn.relu(x) + jax.nn.relu(x) - x


def _logistic(x: Array, **_: Any) -> Array:
    return 0.5 + 0.5 * lax.tanh(0.5 * x)


def _identity(x: Array) -> Array:
    return x


def _clamp(lower: Array, x: Array, upper: Array) -> Array:
    return jnp.minimum(jnp.maximum(x, lower), upper)


def _tree(parts: Sequence[Array]) -> Array:
    """The maximum of `parts`, pairwise: the depth is logarithmic in their number."""
    parts = list(parts)
    while len(parts) > 1:
        pairs = zip(parts[::2], parts[1::2], strict=False)
        parts = [lax.max(a, b) for a, b in pairs] + parts[len(parts) - len(parts) % 2 :]
    return parts[0]


def _reduce_max(x: Array, *, axes: Sequence[int], **_: Any) -> Array:
    for axis in sorted(axes, reverse=True):
        size = x.shape[axis]
        x = _tree([lax.index_in_dim(x, i, axis, keepdims=False) for i in range(size)])
    return x


def _reduce_window_max(
    x: Array,
    *,
    window_dimensions: Sequence[int],
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    base_dilation: Sequence[int],
    window_dilation: Sequence[int],
    **_: Any,
) -> Array:
    reach = [(k - 1) * d for k, d in zip(window_dimensions, window_dilation, strict=True)]
    if any(b != 1 for b in base_dilation) or any(
        max(pair) > 0 and (d != 1 or max(pair) >= k)
        for pair, d, k in zip(padding, window_dilation, window_dimensions, strict=True)
    ):
        raise NotImplementedError("dilated padding, or padding as wide as the window")
    # a repeated edge pixel lies in the window already: it stands in for the padding's -inf
    x = jnp.pad(x, padding, mode="edge")
    counts = [(n - r - 1) // s + 1 for n, r, s in zip(x.shape, reach, window_strides, strict=True)]
    parts = []
    for offset in np.ndindex(*window_dimensions):
        start = [o * d for o, d in zip(offset, window_dilation, strict=True)]
        stop = [b + (c - 1) * s + 1 for b, c, s in zip(start, counts, window_strides, strict=True)]
        parts.append(lax.slice(x, start, stop, window_strides))
    return _tree(parts)


def _reduce_min(x: Array, **settings: Any) -> Array:
    return -_reduce_max(-x, **settings)


def _reduce_window_min(x: Array, **settings: Any) -> Array:
    return -_reduce_window_max(-x, **settings)


DECOMPOSITIONS: dict[str, Callable[..., Array]] = {
    "max": _max,
    "min": _min,
    "abs": _abs,
    "logistic": _logistic,
    "clamp": _clamp,
    "stop_gradient": _identity,
    "reduce_max": _reduce_max,
    "reduce_window_max": _reduce_window_max,
    "reduce_min": _reduce_min,
    "reduce_window_min": _reduce_window_min,
}
"""Primitive -> the same value from affine operations, maxima, ReLUs and tanh.

All but pooling and clamping keep the elementwise convex hull, so nothing is lost by them.
"""
