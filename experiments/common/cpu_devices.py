"""A device for each core of the processor, over which evaluations spread their examples."""

from __future__ import annotations

import contextlib
import os

import jax

from .arithmetic import cores

MOST = 8
"""Devices at most: with more, batches of usual sizes leave each too few examples."""


def one_device_a_core() -> None:
    """Asks JAX for a CPU device for each core, before anything else has asked for devices.

    XLA runs matrix products of a small network's size on one core. Examples dealt out over devices
    keep all of them busy: two cores attack 1.3 times as fast. Other backends are left alone, and
    so is a number that the user chose, by JAX_NUM_CPU_DEVICES or XLA_FLAGS.
    """
    chosen = jax.config.jax_num_cpu_devices != -1
    if chosen or "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return
    with contextlib.suppress(RuntimeError):  # the devices are there already
        jax.config.update("jax_num_cpu_devices", min(cores(), MOST))
