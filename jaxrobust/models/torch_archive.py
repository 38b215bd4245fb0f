"""Files of `torch.save`: the zip archives of PyTorch 1.6 and later, and the streams before it."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxrobust.models.torch_pickle import Storage, TensorRecord, interpret

_ZIP = b"PK\x03\x04"
_PICKLE = b"\x80"
_MAGIC = (0x1950A86A20F9469CFC6C, 1001)
"""The first two pickles of a stream: what it is, and its version."""


class Saved(NamedTuple):
    """What a file holds, tensors as records, and the way to a tensor's numbers."""

    content: Any
    array: Callable[[TensorRecord], np.ndarray]


def open_saved(path: Path) -> Saved:
    """Reads what `torch.save` wrote, all but the numbers; nothing in the file is ever run.

    Raises:
      ValueError: no file of `torch.save`, or one that holds more than tensors, containers, text
        and numbers. Broken bytes may raise any other `Exception`, here and in `array`.
    """
    with path.open("rb") as file:
        start = file.read(len(_ZIP))
    if start == _ZIP:
        return _open_archive(path)
    if start[:1] == _PICKLE:
        return _open_stream(path)
    raise ValueError("torch.save did not write it: it is neither an archive nor a pickle")


def _open_archive(path: Path) -> Saved:
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: info for info in archive.infolist()}
        if len(members) < len(archive.infolist()):
            raise ValueError("its archive holds a name twice")
        if any(info.compress_type != zipfile.ZIP_STORED for info in members.values()):
            raise ValueError("its archive is compressed, which those of torch.save are not")
        if sum(info.file_size for info in members.values()) > path.stat().st_size:
            raise ValueError("its archive declares more bytes than the file has")
        root = next((n[: -len("data.pkl")] for n in members if n.endswith("/data.pkl")), None)
        if root is None:
            raise ValueError("its archive has no data.pkl, so torch.save did not write it")
        if root + "constants.pkl" in members:
            raise ValueError(
                "it is a TorchScript program; save the weights alone: "
                "torch.save(model.state_dict(), path)"
            )
        order = root + "byteorder"
        little = order not in members or archive.read(order) == b"little"
        content, storages = interpret(io.BytesIO(archive.read(root + "data.pkl")))
    for key, storage in storages.items():
        if f"{root}data/{key}" not in members:
            raise ValueError(f"its storage {key!r} is missing")
        held = members[f"{root}data/{key}"].file_size
        if held != _bytes(storage):
            raise ValueError(f"its storage {key!r} has {held} bytes instead of {_bytes(storage)}")

    def numbers(storage: Storage) -> bytes:
        with zipfile.ZipFile(path) as archive:
            return archive.read(f"{root}data/{storage.key}")

    return Saved(content, lambda record: _view(record, numbers(record.storage), little))


def _open_stream(path: Path) -> Saved:
    """The format before PyTorch 1.6: five pickles, then every storage behind its length."""
    with path.open("rb") as file:
        if (interpret(file).content, interpret(file).content) != _MAGIC:
            raise ValueError("it is a pickle that torch.save did not write")
        little = bool(interpret(file).content["little_endian"])
        content, storages = interpret(file)
        starts: dict[str, int] = {}
        for key in interpret(file).content:
            if not isinstance(key, str) or key not in storages:
                raise ValueError("it lists a storage that no tensor has")
            count = int.from_bytes(file.read(8), "little")
            if count != storages[key].count:
                told = storages[key].count
                raise ValueError(f"its storage {key!r} has {count} numbers instead of {told}")
            starts[key] = file.tell()
            file.seek(_bytes(storages[key]), io.SEEK_CUR)
        if file.tell() != path.stat().st_size:
            raise ValueError("it is shorter or longer than its storages")

    def numbers(storage: Storage) -> bytes:
        with path.open("rb") as file:
            file.seek(starts[storage.key])
            return file.read(_bytes(storage))

    return Saved(content, lambda record: _view(record, numbers(record.storage), little))


def _bytes(storage: Storage) -> int:
    return storage.count * jnp.dtype(storage.dtype).itemsize


def _view(record: TensorRecord, data: bytes, little: bool) -> np.ndarray:
    """The numbers of a tensor, after a check that all of them lie in its storage."""
    storage, offset, shape, strides = record
    dtype = jnp.dtype(storage.dtype)
    row = np.frombuffer(data, np.dtype(f"{'<' if little else '>'}u{dtype.itemsize}"))
    row = row.astype(f"=u{dtype.itemsize}").view(dtype)
    if math.prod(shape) == 0:
        return np.zeros(shape, dtype)
    last = offset + sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True))
    if last >= len(row):
        raise ValueError(f"a tensor of shape {shape} reaches beyond its storage of {len(row)}")
    steps = tuple(stride * dtype.itemsize for stride in strides)
    return np.lib.stride_tricks.as_strided(row[offset:], shape, steps, writeable=False).copy()
