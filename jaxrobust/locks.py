"""One process at a time in a folder, such as that of a run."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxrobust.files import PathLike

LOCK = ".lock"
LONGEST = 2000
"""Bytes of a refusal that other processes hear of."""

_MISSING = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
"""What storage without locks answers."""


@contextlib.contextmanager
def claimed(folder: PathLike, *, together: bool = True) -> Iterator[None]:
    """Keeps other processes that claim `folder` out of it while the block runs; makes the folder.

    The lock is the operating system's (flock) on a file `.lock`, which ends with the process that
    holds it, however that ends: what a dead process held is free at once. It reaches across hosts
    where the shared storage carries such locks (NFS 4, Lustre and GPFS mounted with them); where
    locks stay on one host, so does the protection, and where there are none a warning says so.

    Of JAX processes that work as one, the first takes the lock and the others learn the outcome.

    Args:
      together: whether all JAX processes enter the block, or each goes its own way.

    Raises:
      BlockingIOError: another process holds it; the message tells which, where and since when.
      OSError: the folder cannot be written.
    """
    held, failure = None, None
    if jax.process_index() == 0:
        try:
            held = _take(Path(folder))
        except OSError as error:
            failure = error
    try:
        if together and jax.process_count() > 1:
            told = _from_first(str(failure or ""))
            if told and failure is None:
                failure = OSError(told)
        if failure is not None:
            raise failure
        yield
    finally:
        if held is not None:
            os.ftruncate(held, 0)
            os.close(held)


def _take(folder: Path) -> int:
    """The open lock file, whose lock ends when it is closed."""
    file = folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise OSError(error.errno, f"could not write {file} ({error.strerror})") from error
    try:
        _lock(descriptor, folder)
        me = {"pid": os.getpid(), "host": socket.gethostname(), "since": _now()}
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(me).encode(), 0)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _lock(descriptor: int, folder: Path) -> None:
    try:
        # Python has it on POSIX systems alone.
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise BlockingIOError(
            f"{folder} is in use by {_holder(descriptor)}; wait until it ends, stop it, or choose "
            "another folder"
        ) from error
    except (ImportError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _MISSING:
            raise
        warnings.warn(
            f"{folder} lies on storage without file locks: nothing keeps a second process out",
            stacklevel=2,
        )


def _holder(descriptor: int) -> str:
    try:
        held = json.loads(os.pread(descriptor, LONGEST, 0))
        return f"process {held['pid']} on {held['host']} since {held['since']}"
    except (ValueError, KeyError, TypeError):
        # It has not written its name yet.
        return "another process"


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S %z")


def _from_first(text: str) -> str:
    """The first JAX process' text, in all of them."""
    data = np.zeros(LONGEST, np.uint8)
    told = text.encode()[:LONGEST]
    data[: len(told)] = np.frombuffer(told, np.uint8)
    found = np.asarray(multihost_utils.broadcast_one_to_all(data))
    return found.tobytes().rstrip(b"\0").decode(errors="replace")
