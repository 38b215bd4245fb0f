"""Running the step on every device with `jax.pmap`: many steps per call, or one on a host batch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp

from jaxrobust.data import Split, to_float
from jaxrobust.devices import Device
from jaxrobust.training.state import TrainState
from jaxrobust.training.step import DEVICES, Parts, Step, make_step
from jaxrobust.types import Array, Batch, PyTree

StepsFn = Callable[[TrainState, Split, Array], tuple[TrainState, dict[str, Array]]]
StepFn = Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]]
Program = TypeVar("Program")


def replicate(tree: PyTree, devices: Sequence[Device]) -> PyTree:
    """A copy per device, along a new leading axis."""
    # Under the step's own axis name: with another, the step's second call would compile again.
    copy = jax.pmap(lambda _, t: t, in_axes=(0, None), axis_name=DEVICES, devices=devices)
    return copy(jnp.arange(len(devices)), tree)


def unreplicate(tree: PyTree) -> PyTree:
    """The first local device's copy."""
    return jax.tree.map(lambda a: a[0], tree)


def pmapped_steps(step: Step, *, devices: Sequence[Device] | None = None) -> StepsFn:
    """`run(state, data, indices)`: a compiled scan of training steps on all devices.

    State and data carry a leading device axis (see `replicate`); `indices`, `[D, S, B / D]`, picks
    every device's share of S batches from the device-resident data. Returns the new state and the
    metrics `[D, S]`, equal on every device. The state is donated.

    With several processes D counts the local devices, and the means run over those of all.

    Args:
      devices: of all processes, in the same order everywhere (default: all there are).
    """

    def run(state: TrainState, data: Split, indices: Array):
        def body(state: TrainState, index: Array):
            return step(state, Batch(to_float(data.x[index]), data.y[index], index))

        return jax.lax.scan(body, state, indices)

    return jax.pmap(run, axis_name=DEVICES, donate_argnums=0, devices=devices)


def pmapped_step(step: Step, *, devices: Sequence[Device] | None = None) -> StepFn:
    """`run(state, batch)`: one compiled training step on a batch that comes from the host.

    State and batch carry a leading device axis, the batch's images `[D, B / D, H, W, C]` in 8 bits.
    Returns the new state and the metrics `[D]`. Another size of images or of the batch compiles
    once. Otherwise as `pmapped_steps`.
    """

    def run(state: TrainState, batch: Batch):
        return step(state, batch._replace(x=to_float(batch.x)))

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
