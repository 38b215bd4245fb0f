"""Starting `fit_worker.py` and reading what it leaves behind."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

TESTS = Path(__file__).resolve().parent.parent
WORKER = Path(__file__).resolve().with_name("fit_worker.py")
TIMEOUT = 240
"""Seconds a worker may take; generous, for a busy machine."""


def free_address() -> str:
    """An address on this machine that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def start(folder: Path, name: str, *, devices: int = 1, **settings: Any) -> subprocess.Popen[str]:
    """A worker called `name`, whose files lie in `folder`, with so many simulated devices."""
    settings = {
        "run": str(folder / "run"),
        "out": str(folder / f"{name}.npz"),
        "history": str(folder / f"{name}.json"),
        **settings,
    }
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.settings"
    file.write_text(json.dumps(settings))
    environment = {
        "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)]),
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
        "JAX_NUMPY_DTYPE_PROMOTION": "strict",
        "JAX_NUMPY_RANK_PROMOTION": "raise",
    }
    return subprocess.Popen(
        [sys.executable, str(WORKER), str(file)],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(*workers: subprocess.Popen[str], code: int = 0) -> None:
    """Waits for workers and demands their exit status; none outlives this call."""
    try:
        for worker in workers:
            output, _ = worker.communicate(timeout=TIMEOUT)
            assert worker.returncode == code, output[-4000:]
    finally:
        for worker in workers:
            worker.kill()


def result(folder: Path, name: str) -> tuple[list[np.ndarray], list[dict[str, Any]]]:
    """The final numbers and the history that a worker left."""
    with np.load(folder / f"{name}.npz") as held:
        leaves = [held[key] for key in held.files]
    return leaves, json.loads((folder / f"{name}.json").read_text())
