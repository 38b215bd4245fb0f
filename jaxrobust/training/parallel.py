"""Running the step on every device with `jax.pmap`: many steps per call, or one on a host batch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp

from jaxrobust.data import Split, to_inputs
from jaxrobust.devices import Device
from jaxrobust.training.state import TrainState
from jaxrobust.training.step import DEVICES, Parts, Step, make_step
from jaxrobust.types import Array, Batch, PyTree

StepsFn = Callable[[TrainState, Split, Array], tuple[TrainState, dict[str, Array]]]
StepFn = Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]]
Program = TypeVar("Program")


def replicate(tree: PyTree, devices: Sequence[Device]) -> PyTree:
    """Copies a tree to every device.

    Args:
      tree: a tree of arrays `[...]`.
      devices: the D devices.

    Returns:
      The tree of arrays `[D, ...]`, a copy per device along the new leading axis.
    """
    # Under the step's own axis name: with another, the step's second call would compile again.
    copy = jax.pmap(lambda _, t: t, in_axes=(0, None), axis_name=DEVICES, devices=devices)
    return copy(jnp.arange(len(devices)), tree)


def unreplicate(tree: PyTree) -> PyTree:
    """Takes the first local device's copy of a replicated tree.

    Args:
      tree: a tree of arrays `[D, ...]`, see `replicate`.

    Returns:
      The tree of arrays `[...]`.
    """
    return jax.tree.map(lambda a: a[0], tree)


def pmapped_steps(step: Step, *, devices: Sequence[Device] | None = None) -> StepsFn:
    """Compiles a scan of training steps on all devices.

    Args:
      step: the step of one device, from `make_step`.
      devices: those of all processes, in the same order everywhere (default: all there are).

    Returns:
      `run(state, data, indices) -> (state, metrics)`. State and data carry a leading device axis
      (see `replicate`); `indices`, integers `[D, S, B / D]`, picks every device's share of S
      batches from the device-resident data. The metrics are `[D, S]`, equal on every device, and
      `[D, S, G]` where they hold a value for each of G constraints. The state is donated. With
      several processes D counts the local devices, B is the process's share of a batch, and the
      means run over the devices of all.
    """

    def run(state: TrainState, data: Split, indices: Array):
        def body(state: TrainState, index: Array):
            return step(state, Batch(to_inputs(data.x[index]), data.y[index], index))

        return jax.lax.scan(body, state, indices)

    return jax.pmap(run, axis_name=DEVICES, donate_argnums=0, devices=devices)


def pmapped_step(step: Step, *, devices: Sequence[Device] | None = None) -> StepFn:
    """Compiles one training step on a batch that comes from the host.

    Args:
      step: the step of one device, from `make_step`.
      devices: see `pmapped_steps`.

    Returns:
      `run(state, batch) -> (state, metrics)`. State and batch carry a leading device axis: the
      inputs are `[D, B / D, ...]`, in 8 bits or floats, the labels and indices `[D, B / D]`. The
      metrics are `[D]`, and `[D, G]` where they hold a value for each of G constraints. Another
      size of images or of the batch compiles once. Otherwise as `pmapped_steps`.
    """

    def run(state: TrainState, batch: Batch):
        return step(state, batch._replace(x=to_inputs(batch.x)))

    return jax.pmap(run, axis_name=DEVICES, donate_argnums=0, devices=devices)


@functools.lru_cache(maxsize=8)
def program(
    pmapped: Callable[[Step], Program],
    parts: Parts,
    total_steps: int,
) -> Program:
    """The compiled step, or steps, shared by runs that differ in their seed alone."""
    model, defense, optimizer, multiplier, augment = parts
    step = make_step(
        model, defense, optimizer, multiplier=multiplier, augment=augment, total_steps=total_steps
    )
    return pmapped(step)
