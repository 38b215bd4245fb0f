"""Joining the JAX processes of one program."""

from __future__ import annotations

import jax

HEARTBEAT_TIMEOUT = 30
"""Seconds without a sign of life after which a process counts as dead."""


def join(
    coordinator: str | None = None, processes: int | None = None, process: int | None = None
) -> None:
    """`jax.distributed.initialize`, with which the processes notice within 60 s that one has died.

    They then end with an error that says so, instead of waiting for it in their next collective
    operation (100 s by JAX's default). Call it before anything else touches a device.

    Args:
      coordinator: `host:port` of process 0.
      processes: how many there are.
      process: which one this is. All three may be left out where JAX knows the cluster (Slurm, Open
        MPI, TPU pods).
    """
    jax.distributed.initialize(
        coordinator, processes, process, heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT
    )
