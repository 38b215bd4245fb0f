"""Arrays of an .npz file: what it declares is looked at before anything is unpacked."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, NamedTuple, TypeVar

import numpy as np

Answer = TypeVar("Answer")


class Declared(NamedTuple):
    """What a member's header says of its array."""

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool


def declared(path: Path) -> dict[str, Declared]:
    """Shape and type of every array of the .npz file at `path`, by name; unpacks headers alone.

    Raises:
      ValueError: no archive, or a member that is no array of numbers or is named twice; the
        message names file and member.
    """
    archive = _guarded(path, None, lambda: zipfile.ZipFile(path))
    with archive:
        found: dict[str, Declared] = {}
        for info in archive.infolist():
            name = info.filename.removesuffix(".npy")
            if name in found:
                raise ValueError(f"{path}: {name!r} is there twice")
            found[name] = _guarded(path, name, lambda info=info: _header_of(archive, info))
    return found


def packed(arrays: Mapping[str, np.ndarray]) -> bytes:
    """An .npz file of these arrays, whatever their names; the same arrays give the same bytes.

    Raises:
      ValueError: an array of objects.
    """
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)
    return data.getvalue()


def read(path: Path, expected: Mapping[str, Declared]) -> dict[str, np.ndarray]:
    """Those of the arrays that `declared` told of, not a byte more.

    Raises:
      ValueError: an array that is broken, or longer or shorter than declared; the message names
        file and member.
    """
    arrays = {}
    archive = _guarded(path, None, lambda: zipfile.ZipFile(path))
    with archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        for name, told in expected.items():
            arrays[name] = _guarded(
                path, name, lambda name=name, told=told: _array(archive, members[name], told)
            )
    return arrays


def _guarded(path: Path, member: str | None, run: Callable[[], Answer]) -> Answer:
    try:
        return run()
    except Exception as error:
        # Bytes from elsewhere fail in many ways: in the archive, its compression (zlib, EOFError),
        # encryption (RuntimeError), the header's text, or the memory they ask for.
        told = f"{type(error).__name__}: {error}"
        where = (
            f"{path} is not a NumPy archive of arrays"
            if member is None
            else f"{path}: {member!r} cannot be read"
        )
        raise ValueError(f"{where} ({told})") from error


def _header_of(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Declared:
    if not info.filename.endswith(".npy"):
        raise ValueError("it is no .npy member")
    with archive.open(info) as stream:
        return _header(stream)


def _header(stream: IO[bytes]) -> Declared:
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
    else:
        raise ValueError(f"its format is {version}, and numbers need no more than (2, 0)")
    if dtype.kind not in "biufc":
        raise ValueError(f"it must hold numbers, not {dtype}")
    if any(side < 0 for side in shape):
        raise ValueError(f"its shape is {shape}")
    return Declared(shape, dtype, fortran)


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, told: Declared) -> np.ndarray:
    count = math.prod(told.shape)
    with archive.open(info) as stream:
        if _header(stream) != told:
            raise ValueError("its header has changed")
        # One byte more shows whether there is one; at the end the archive checks its sum.
        data = stream.read(count * told.dtype.itemsize + 1)
    if len(data) != count * told.dtype.itemsize:
        raise ValueError(f"it does not hold the {count} numbers of its shape {told.shape}")
    flat = np.frombuffer(data, told.dtype).astype(told.dtype.newbyteorder("="))
    return flat.reshape(told.shape, order="F" if told.fortran else "C")
