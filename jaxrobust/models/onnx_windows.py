"""Windows of ONNX convolutions and poolings: their sizes, strides, dilations and pads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxrobust.models.onnx_operation import Operation


class Windows(NamedTuple):
    """Where the windows lie, for each axis of an image."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    """Before and after, those included that rounding up (`ceil_mode`) adds."""
    counts: tuple[int, ...]
    """How many there are."""

    @property
    def reach(self) -> tuple[int, ...]:
        """How many pixels a window spans."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))


def windows(operation: Operation, sizes: Sequence[int], kernel: Sequence[int]) -> Windows:
    """The windows over an image of these sizes.

    Raises:
      ValueError: attributes that do not fit the image, or an unknown `auto_pad`.
    """
    rank = len(sizes)
    strides = tuple(operation.get("strides", (1,) * rank))
    dilations = tuple(operation.get("dilations", (1,) * rank))
    told = tuple(operation.get("pads", (0,) * (2 * rank)))
    given = {"kernel": kernel, "strides": strides, "dilations": dilations, "pads": told[::2]}
    for name, values in given.items():
        if len(values) != rank:
            raise ValueError(f"{name} of {len(values)} axes for an image of {rank}")
    mode = operation.get("auto_pad", "NOTSET")
    pads, counts = [], []
    for n, k, s, d, low, high in zip(
        sizes, kernel, strides, dilations, told[:rank], told[rank:], strict=True
    ):
        reach = (k - 1) * d + 1
        if mode in ("SAME_UPPER", "SAME_LOWER"):
            missing = max((-(-n // s) - 1) * s + reach - n, 0)
            low, high = missing // 2, missing - missing // 2
            if mode == "SAME_LOWER":
                low, high = high, low
        elif mode == "VALID":
            low, high = 0, 0
        elif mode != "NOTSET":
            raise ValueError(f"auto_pad {mode!r} is not known")
        room = n + low + high - reach
        if room < 0:
            raise ValueError(f"a window of {reach} pixels on an image of {n + low + high}")
        count = room // s + 1
        if operation.get("ceil_mode", 0) and mode == "NOTSET":
            up = -(-room // s) + 1
            # a window that begins behind the image is none
            count = up if (up - 1) * s < n + low else count
        pads.append((low, max(high, (count - 1) * s + reach - n - low)))
        counts.append(count)
    return Windows(tuple(kernel), strides, dilations, tuple(pads), tuple(counts))


def shares(
    operation: Operation, where: Windows, sizes: Sequence[int], *, padded: bool
) -> np.ndarray:
    """How many pixels each window holds, of the shape `counts`.

    Args:
      padded: whether the pads that the file tells count as pixels.
    """
    rank, total = len(sizes), np.ones((), np.int64)
    told = tuple(operation.get("pads", (0,) * (2 * rank)))
    for axis, (n, k, s, d, (low, high), count) in enumerate(
        zip(sizes, where.kernel, where.strides, where.dilations, where.pads, where.counts,
            strict=True)
    ):  # fmt: skip
        after = high if operation.get("auto_pad", "NOTSET") != "NOTSET" else told[rank + axis]
        first, end = (-low, n + after) if padded else (0, n)
        pixels = (np.arange(count) * s - low)[:, None] + np.arange(k) * d
        total = total[..., None] * ((first <= pixels) & (pixels < end)).sum(axis=1)
    return total
