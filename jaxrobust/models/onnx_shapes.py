"""ONNX operators that move numbers about, and sums and maxima over axes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from jaxrobust.models.onnx_operation import (
    Operation,
    Operator,
    Value,
    axes_of,
    axis_of,
    chosen,
    integers,
    known,
    library,
)

PLACES = ("half_pixel", "asymmetric")
"""How `Resize` finds a pixel's place in the image."""
MODES = ("constant", "edge", "reflect")
"""How `Pad` fills."""


def _flatten(operation: Operation, x: Value) -> Value:
    axis = operation.get("axis", 1)
    axis = axis if axis >= 0 else axis + x.ndim
    return x.reshape(math.prod(x.shape[:axis]), -1)


def _reshape(operation: Operation, x: Value, shape: Value | None = None) -> Value:
    told = chosen(operation, "shape", shape)
    if told is None:
        raise ValueError("the new shape is not told")
    if not operation.get("allowzero", 0):
        told = [x.shape[i] if n == 0 else n for i, n in enumerate(told)]
    return x.reshape(told)


def _squeeze(operation: Operation, x: Value, axes: Value | None = None) -> Value:
    return library(x).squeeze(x, axes_of(operation, x, axes))


def _unsqueeze(operation: Operation, x: Value, axes: Value | None = None) -> Value:
    told = chosen(operation, "axes", axes) or []
    rank = x.ndim + len(told)
    return library(x).expand_dims(x, tuple(axis_of(a, rank) for a in told))


def _transpose(operation: Operation, x: Value) -> Value:
    return library(x).transpose(x, operation.get("perm"))


def _concat(operation: Operation, *values: Value) -> Value:
    axis = axis_of(operation.get("axis", 1), values[0].ndim)
    return library(*values).concatenate(values, axis)


def _slice(
    operation: Operation,
    x: Value,
    starts: Value | None = None,
    ends: Value | None = None,
    axes: Value | None = None,
    steps: Value | None = None,
) -> Value:
    first, last = chosen(operation, "starts", starts), chosen(operation, "ends", ends)
    if first is None or last is None:
        raise ValueError("starts and ends are not told")
    along = axes_of(operation, x, axes) or tuple(range(len(first)))
    strides = [1] * len(first) if steps is None else integers(steps, "steps")
    cuts = [slice(None)] * x.ndim
    for axis, start, end, step in zip(along, first, last, strides, strict=True):
        cuts[axis] = slice(start, end, step)
    return x[tuple(cuts)]


def _split(operation: Operation, x: Value, sizes: Value | None = None) -> Sequence[Value]:
    axis = axis_of(operation.get("axis", 0), x.ndim)
    told, count = chosen(operation, "split", sizes), len(operation.outputs)
    if told is None:
        share = -(-x.shape[axis] // count)
        told = [share] * (count - 1) + [x.shape[axis] - share * (count - 1)]
    if sum(told) != x.shape[axis]:
        raise ValueError(f"parts of {told} do not make up {x.shape[axis]}")
    return library(x).split(x, np.cumsum(told)[:-1].tolist(), axis)


def _pad(
    operation: Operation,
    x: Value,
    pads: Value | None = None,
    fill: Value | None = None,
    axes: Value | None = None,
) -> Value:
    told, mode = chosen(operation, "pads", pads), operation.get("mode", "constant")
    if told is None or mode not in MODES:
        raise ValueError(f"it needs pads, and a mode of {', '.join(MODES)}, got {mode!r}")
    along = axes_of(operation, x, axes) or tuple(range(x.ndim))
    widths, half = [(0, 0)] * x.ndim, len(told) // 2
    for axis, low, high in zip(along, told[:half], told[half:], strict=True):
        widths[axis] = (low, high)
    # what is negative is cut off
    cuts = tuple(
        slice(-min(a, 0), n + min(b, 0)) for (a, b), n in zip(widths, x.shape, strict=True)
    )
    x, widths = x[cuts], [(max(a, 0), max(b, 0)) for a, b in widths]
    if mode != "constant":
        return library(x).pad(x, widths, mode=mode)
    value = operation.get("value", 0.0) if fill is None else known(fill, "values of pads").item()
    return library(x).pad(x, widths, constant_values=np.asarray(value, x.dtype))


def _gather(operation: Operation, x: Value, indices: Value) -> Value:
    axis = axis_of(operation.get("axis", 0), x.ndim)
    places, size = known(indices, "indices"), x.shape[axis]
    if places.size and not (-size <= places.min() and places.max() < size):
        raise ValueError(f"indices up to {places.max()} of {size} entries")
    places = places % size
    return np.take(x, places, axis) if library(x) is np else jnp.take(x, places, axis, mode="clip")


def _expand(operation: Operation, x: Value, shape: Value) -> Value:
    told = np.broadcast_shapes(x.shape, tuple(integers(shape, "shapes")))
    return library(x).broadcast_to(x.reshape((1,) * (len(told) - x.ndim) + x.shape), told)


def _tile(operation: Operation, x: Value, repeats: Value) -> Value:
    for axis, count in enumerate(integers(repeats, "repeats")):
        x = library(x).concatenate([x] * count, axis)
    return x


def _resize(
    operation: Operation,
    x: Value,
    region: Value | None = None,
    scales: Value | None = None,
    sizes: Value | None = None,
) -> Value:
    """Each pixel several times, which is what the nearest one is at whole factors."""
    if operation.kind == "Upsample":
        region, scales = None, region
    told = operation.get("scales")
    if sizes is not None:
        told = [n / m for n, m in zip(integers(sizes, "sizes"), x.shape, strict=True)]
    elif told is None:
        told = known(scales, "scales").reshape(-1).tolist()
    mode = operation.get("mode", "nearest")
    place = operation.get("coordinate_transformation_mode", "half_pixel")
    if mode != "nearest" or place not in PLACES or operation.get("axes") is not None:
        raise ValueError(f"only the nearest pixel is known, at {' or '.join(PLACES)}")
    if operation.get("nearest_mode", "floor") == "ceil" or any(v < 1 or v % 1 for v in told):
        raise ValueError(f"only whole factors are known, rounded down or to the nearest: {told}")
    for axis, factor in enumerate(int(v) for v in told):
        if factor > 1:
            shape = (*x.shape[: axis + 1], factor, *x.shape[axis + 1 :])
            spread = library(x).broadcast_to(library(x).expand_dims(x, axis + 1), shape)
            x = spread.reshape(*x.shape[:axis], factor * x.shape[axis], *x.shape[axis + 1 :])
    return x


def _shape(operation: Operation, x: Value) -> np.ndarray:
    start, end = operation.get("start", 0), operation.get("end")
    return np.asarray(x.shape[start:end], np.int64)


def _size(operation: Operation, x: Value) -> np.ndarray:
    return np.asarray(x.size, np.int64)


def _constant_of_shape(operation: Operation, shape: Value) -> np.ndarray:
    held = operation.get("value")
    value = np.zeros(1, np.float32) if held is None else held.array
    return np.full(integers(shape, "shapes"), value.reshape(()))


def _range(operation: Operation, *ends: Value) -> np.ndarray:
    start, stop, step = (known(end, "ends of a range").item() for end in ends)
    return np.arange(start, stop, step)


def _reduced(name: str) -> Operator:
    """The sum, mean or extreme over axes."""

    def run(operation: Operation, x: Value, axes: Value | None = None) -> Value:
        along = axes_of(operation, x, axes)
        if not along:
            if operation.get("noop_with_empty_axes", 0):
                return x
            along = tuple(range(x.ndim))
        keep = bool(operation.get("keepdims", 1))
        return getattr(library(x), name)(x, axis=along, keepdims=keep)

    return run


SHAPES: dict[str, Operator] = {
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": _transpose,
    "Concat": _concat,
    "Slice": _slice,
    "Split": _split,
    "Pad": _pad,
    "Gather": _gather,
    "Expand": _expand,
    "Tile": _tile,
    "Resize": _resize,
    "Upsample": _resize,
    "Shape": _shape,
    "Size": _size,
    "ConstantOfShape": _constant_of_shape,
    "Range": _range,
    "ReduceSum": _reduced("sum"),
    "ReduceMean": _reduced("mean"),
    "ReduceMax": _reduced("max"),
    "ReduceMin": _reduced("min"),
}
"""ONNX' name -> what runs."""
