"""Peak memory of a call, on the host or on a GPU, beyond what was held before it."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

EVERY = 0.002
"""Seconds between two looks at the memory in use."""
REST = 0.3
"""Seconds before the first look, in which other threads free what an earlier call held."""
STATM = Path("/proc/self/statm")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""As in glibc's malloc.h."""

LIBC = ctypes.CDLL(None) if os.name == "posix" else None

Meter = Callable[[Callable[[], Any]], float | None]
"""Makes the call; the bytes it took at its peak, or None where nobody can tell."""


def sampled(run: Callable[[], Any], used: Callable[[], int]) -> float:
    """The most that `used` reads while `run` goes on, less what it read before."""
    before = most = used()
    over = threading.Event()

    def watch() -> None:
        nonlocal most
        while not over.wait(EVERY):
            most = max(most, used())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        run()
    finally:
        over.set()
        watcher.join()
    return float(most - before)


def host(run: Callable[[], Any]) -> float | None:
    """Growth of the process's resident memory; None where the system does not tell (not Linux).

    Makes the call twice and looks at the second.
    """
    if not STATM.exists():
        return None
    page = os.sysconf("SC_PAGE_SIZE")
    with returned():
        run()  # uses up, and so gives back, what the threads kept from earlier calls
        gc.collect()
        time.sleep(REST)
        trim()
        return sampled(run, lambda: page * int(STATM.read_text().split()[1]))


def trim() -> None:
    """Gives free blocks of the main thread back."""
    if hasattr(LIBC, "malloc_trim"):
        LIBC.malloc_trim(0)


@contextlib.contextmanager
def returned() -> Iterator[None]:
    """Lets glibc take large blocks from the system and give them back when they are freed.

    It keeps what was freed, up to 32 MB a block: a call that takes that again would seem to need
    none. Afterwards it keeps as much as it does after a while by itself. No effect elsewhere.
    """
    options = getattr(LIBC, "mallopt", None)
    if options is None:
        yield
        return
    options(M_MMAP_THRESHOLD, 2**17)
    options(M_TRIM_THRESHOLD, 2**17)
    try:
        yield
    finally:
        options(M_MMAP_THRESHOLD, 2**25)
        options(M_TRIM_THRESHOLD, 2**26)


def torch_cuda(run: Callable[[], Any]) -> float | None:
    """Growth of what PyTorch's tensors take on the GPU; its graphs' own pools are in it."""
    import torch

    gc.collect()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    return float(torch.cuda.max_memory_allocated() - before)


def jax_device(run: Callable[[], Any]) -> float | None:
    """Growth of what JAX's buffers take on the first device; None where it does not tell."""
    device = jax.local_devices()[0]
    if not device.memory_stats():
        return None
    return sampled(run, lambda: device.memory_stats()["bytes_in_use"])


def ours() -> Meter:
    """The meter for this library, where JAX runs by default."""
    return host if jax.default_backend() == "cpu" else jax_device
