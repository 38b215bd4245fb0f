"""Bytes as `torch.save` writes them, put together by hand: whole, broken or malicious."""

import pickle
import zipfile
from pathlib import Path

import numpy as np

MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)
SYSTEM = pickle.dumps({"protocol_version": 1001, "little_endian": True, "type_sizes": {}}, 2)


def text(value: str) -> bytes:
    return b"X" + len(value.encode()).to_bytes(4, "little") + value.encode()


def whole(value: int) -> bytes:
    encoded = pickle.encode_long(value)
    return b"\x8a" + bytes([len(encoded)]) + encoded


def several(*parts: bytes) -> bytes:
    return b"(" + b"".join(parts) + b"t"


def tensor(
    key: str,
    count: int,
    shape: tuple[int, ...],
    *,
    strides: tuple[int, ...] | None = None,
    offset: int = 0,
    kind: str = "FloatStorage",
) -> bytes:
    """What rebuilds a tensor; strides as those of an array whose rows lie one after another."""
    if strides is None:
        strides = tuple(int(np.prod(shape[axis + 1 :])) for axis in range(len(shape)))
    place = (text("storage"), b"ctorch\n" + kind.encode() + b"\n", text(key), text("cpu"))
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n"
        + several(
            several(*place, whole(count)) + b"Q",
            whole(offset),
            several(*map(whole, shape)),
            several(*map(whole, strides)),
            b"\x89",
            b"ccollections\nOrderedDict\n)R",
        )
        + b"R"
    )


def state(**tensors: bytes) -> bytes:
    """A pickle of a dictionary."""
    pairs = b"".join(text(name) + value for name, value in tensors.items())
    return b"\x80\x02}(" + pairs + b"u."


def archive(
    path: Path, program: bytes, storages: dict[str, np.ndarray], compression=zipfile.ZIP_STORED
) -> Path:
    """The format since PyTorch 1.6."""
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("net/data.pkl", program)
        for key, numbers in storages.items():
            file.writestr(f"net/data/{key}", numbers.tobytes())
        file.writestr("net/version", "3\n")
    return path


def stream(path: Path, program: bytes, storages: dict[str, np.ndarray]) -> Path:
    """The format before."""
    held = b"".join(
        numbers.size.to_bytes(8, "little") + numbers.tobytes() for numbers in storages.values()
    )
    path.write_bytes(MAGIC + SYSTEM + program + pickle.dumps(list(storages), 2) + held)
    return path
