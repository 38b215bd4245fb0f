"""Peak memory of a call, on the host or on a GPU, beyond what was held before it."""

from __future__ import annotations

import ctypes
import gc
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

EVERY = 0.002
"""Seconds between two looks at the memory in use."""
STATM = Path("/proc/self/statm")

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

    Freed memory that the allocator keeps goes back to the system first: a call that takes it
    again would seem to need none.
    """
    if not STATM.exists():
        return None
    page = os.sysconf("SC_PAGE_SIZE")
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    return sampled(run, lambda: page * int(STATM.read_text().split()[1]))


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
