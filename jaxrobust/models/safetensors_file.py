"""Files of Hugging Face's safetensors format: a length, a JSON header, and the numbers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
"""Types of numbers by their names in a header."""

MOST_HEADER = 100_000_000
"""Bytes of a header, the format's own limit."""


class Place(NamedTuple):
    """Type and shape of an array, and where its bytes start in the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int


def places(path: Path) -> dict[str, Place]:
    """Where the arrays of the file lie, by name; every byte of the file is accounted for.

    Raises:
      ValueError: a header that is broken, or does not describe the file. Broken bytes may raise
        any other `Exception`.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(MOST_HEADER, size - 8):
            raise ValueError(f"its header would have {length} bytes, and the file has {size}")
        header = json.loads(file.read(length), object_pairs_hook=_once)
    header.pop("__metadata__", None)
    found = {}
    end = start = 8 + length
    for name, told in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        dtype, shape, (first, last) = told["dtype"], told["shape"], told["data_offsets"]
        if dtype not in DTYPES:
            raise ValueError(f"{name!r} is of type {dtype!r}; read are {', '.join(DTYPES)}")
        if not all(type(number) is int and number >= 0 for number in (*shape, first, last)):
            raise ValueError(f"{name!r} has a shape or a place that is none")
        if last - first != math.prod(shape) * jnp.dtype(DTYPES[dtype]).itemsize:
            raise ValueError(f"{name!r} has {last - first} bytes for {dtype} of shape {shape}")
        if start + first != end:
            raise ValueError(f"{name!r} does not start where the array before it ends")
        found[name] = Place(DTYPES[dtype], tuple(shape), end)
        end = start + last
    if end != size:
        raise ValueError(f"its arrays end at byte {end}, and the file has {size}")
    return found


def read_array(path: Path, place: Place) -> np.ndarray:
    """The numbers at a place that `places` told of."""
    dtype = jnp.dtype(place.dtype)
    with path.open("rb") as file:
        file.seek(place.start)
        data = file.read(math.prod(place.shape) * dtype.itemsize)
    row = np.frombuffer(data, f"<u{dtype.itemsize}").astype(f"=u{dtype.itemsize}")
    return row.view(dtype).reshape(place.shape)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    held = dict(pairs)
    if len(held) < len(pairs):
        raise ValueError("its header names something twice")
    return held
