"""A training run on batches that are read while it runs, in phases of growing images."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from jaxrobust import checks
from jaxrobust.defenses import Defense
from jaxrobust.lagrangian import Multiplier
from jaxrobust.models import ModelLike, as_model
from jaxrobust.training.boxes import require_boxed
from jaxrobust.training.early_stopping import Stop
from jaxrobust.training.epochs import (
    Length,
    Metrics,
    Run,
    Validate,
    begun,
    require_classes,
    require_even,
    train_epochs,
)
from jaxrobust.training.initial import Weights
from jaxrobust.training.parallel import pmapped_step, program
from jaxrobust.training.reporting import Callback, require_callbacks
from jaxrobust.training.state import TrainState
from jaxrobust.training.step import Augment, Parts
from jaxrobust.types import Array, Batch

STEPS_PER_REPORT = 20
"""Steps between looks at the metrics: the host waits for the devices there alone."""


class Feed(Protocol):
    """Where training batches come from, as `data.Stream` and what `data.stream_of` makes do."""

    name: str
    num_classes: int

    @property
    def images(self) -> int:
        """Number of training images."""
        ...

    def shape(self, size: int) -> tuple[int, ...]:
        """Of one example where a phase has this size, such as (size, size, 3)."""
        ...

    def batches(self, seed: int, epoch: int, *, size: int, batch_size: int) -> Iterator[Batch]:
        """This process' share of the `images // batch_size` batches of an epoch.

        They hold uint8 or float32 examples `[B, *shape(size)]`, int32 labels and indices that tell
        the examples of a batch apart.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Phase:
    """Epochs with images of one size.

    Raises:
      ValueError: a number that is not positive, or shares that do not rise from 0 to 1.
    """

    epochs: int
    size: int
    """Pixels on a side; the first number of an example's shape."""
    batch_size: int
    """Over all devices of all processes."""
    rates: tuple[tuple[float, float], ...]
    """Learning rates at shares of the phase, `((0, first), ..., (1, last))`, linear in between."""

    def __post_init__(self) -> None:
        for name in ("epochs", "size", "batch_size"):
            checks.at_least(name, getattr(self, name), 1)
        shares = [share for share, _ in self.rates]
        if len(shares) < 2 or shares[0] != 0 or shares[-1] != 1 or shares != sorted(set(shares)):
            raise ValueError(f"rates need shares that rise from 0 to 1, got {self.rates}")
        for _, rate in self.rates:
            checks.nonnegative("rate", rate)


def phase_steps(phase: Phase, images: int, *, replays: int = 1) -> int:
    """Steps of one epoch of a phase over so many training images; see `steps_per_epoch`."""
    if images < phase.batch_size:
        raise ValueError(
            f"{images} training images fill no batch of {phase.batch_size}; "
            "use a smaller batch_size"
        )
    return images // phase.batch_size * replays


def phase_schedule(phases: Sequence[Phase], images: int, *, replays: int = 1) -> optax.Schedule:
    """The learning rate at every step of a run of phases.

    Args:
      phases: the phases, in order.
      images: the number of training images.
      replays: how many steps in a row see the same batch, as `Defense.replays`.

    Returns:
      An Optax schedule: a function of the step, counted from 0, that returns the rate in float32
      and in the step's shape. After the last phase it stays at that phase's last rate.

    Raises:
      ValueError: too few images for a batch of a phase.
    """
    parts, ends = [], [0]
    for phase in phases:
        steps = phase.epochs * phase_steps(phase, images, replays=replays)
        parts.append((ends[-1], steps, phase.rates))
        ends.append(ends[-1] + steps)

    def rate(count: ArrayLike) -> Array:
        step = jnp.asarray(count, jnp.float32)
        value = jnp.float32(0)
        for start, steps, rates in parts:
            shares, levels = (
                jnp.asarray(column, jnp.float32) for column in zip(*rates, strict=True)
            )
            own = jnp.interp((step - jnp.float32(start)) / jnp.float32(steps), shares, levels)
            value = jnp.where(step >= start, own, value)
        return value

    return rate


def fit_stream(
    seed: int,
    model: ModelLike,
    defense: Defense,
    feed: Feed,
    optimizer: optax.GradientTransformation,
    *,
    phases: Sequence[Phase],
    run: str | Path,
    config: Mapping[str, Any],
    multiplier: Multiplier | None = None,
    augment: Augment | None = None,
    validate: Validate | None = None,
    best_by: str | None = None,
    stop: Stop | None = None,
    variables: Weights | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
) -> Run:
    """`fit` for images that do not fit into memory, and that grow from phase to phase.

    The whole state (parameters, momentum, statistics) goes on from phase to phase, so that the
    model must take images of any size, as fully convolutional ones with a global average do, and
    the defense must keep nothing of their shape (as `defenses.free` does). The step compiles once
    per phase. Folder, resuming at the last whole epoch, processes and errors are those of `fit`;
    each process reads its own share of every batch.

    Args:
      feed: the training images, for example a `data.Stream`, or what `data.stream_of` makes of a
        PyTorch loader; known by their name and number alone.
      optimizer: built for the run's length, for example with `phase_schedule`.
      phases: the phases, in order, with their epochs, image sizes and batch sizes.
      seed, model, defense, run, config, multiplier, augment: see `fit`.
      validate, best_by, stop, variables, callbacks, progress: see `fit`.

    Returns:
      A `Run`, as that of `fit`.

    Raises:
      ValueError: a batch that does not divide over the devices, batches of the feed that are not
        those asked for, or an epoch's first batch outside of the box of the defense's threat set;
        and what `fit` raises.
    """
    if not phases:
        raise ValueError("nothing to train: phases is empty")
    model = as_model(model)
    require_callbacks(callbacks)
    steps = {p: phase_steps(p, feed.images, replays=defense.replays) for p in phases}
    for phase in phases:
        require_even(phase.batch_size)
    shapes = {p: feed.shape(p.size) for p in phases}
    sample = jnp.zeros((1, *shapes[phases[0]]), jnp.float32)
    require_classes(model, sample, feed.name, feed.num_classes)
    seen = {
        "phases": [dataclasses.asdict(phase) for phase in phases],
        "dataset": feed.name,
        "training_images": feed.images,
    }
    parts = Parts(model, defense, optimizer, multiplier, augment)
    with begun(
        Path(run),
        seed,
        parts,
        sample,
        seen,
        config=config,
        validate=validate,
        best_by=best_by,
        variables=variables,
    ) as resumed:
        plan = [phase for phase in phases for _ in range(phase.epochs)]
        total = sum(steps[phase] for phase in plan)
        step = program(pmapped_step, parts, total)

        def play(state: TrainState, epoch: int) -> Iterator[tuple[TrainState, Metrics]]:
            phase, seen = plan[epoch], []
            for number, batch in enumerate(_replayed(feed, seed, epoch, phase, defense)):
                state, metrics = step(state, batch)
                seen.append(metrics)
                # Alone, the first step shows what compiling took.
                if number % STEPS_PER_REPORT == 0 or number + 1 == steps[phase]:
                    yield state, _gathered(seen)
                    seen = []

        lengths = [Length(steps[phase], phase.batch_size) for phase in plan]
        return train_epochs(
            resumed, play, lengths, stop=stop, callbacks=callbacks, progress=progress
        )


def _replayed(feed: Feed, seed: int, epoch: int, phase: Phase, defense: Defense) -> Iterator[Batch]:
    """The epoch's batches, dealt out to the local devices, each so many times in a row."""
    expected = feed.images // phase.batch_size
    shape = (phase.batch_size // jax.process_count(), *feed.shape(phase.size))
    count = 0
    for batch in feed.batches(seed, epoch, size=phase.size, batch_size=phase.batch_size):
        if batch.x.shape != shape or count == expected:
            raise ValueError(
                f"batch {count + 1} of epoch {epoch + 1} of {feed.name!r} has images "
                f"{list(batch.x.shape)}; expected {expected} batches of {list(shape)}"
            )
        if not count:
            require_boxed(defense, np.asarray(batch.x))
        dealt = jax.tree.map(_dealt, batch)
        count += 1
        for _ in range(defense.replays):
            yield dealt
    if count < expected:
        raise ValueError(
            f"epoch {epoch + 1} of {feed.name!r} ended after {count} batches of {expected}"
        )


def _dealt(rows: np.ndarray) -> np.ndarray:
    devices = jax.local_device_count()
    return rows.reshape(devices, len(rows) // devices, *rows.shape[1:])


def _gathered(steps: Sequence[Mapping[str, Array]]) -> Metrics:
    return {name: np.asarray([np.asarray(m[name][0]) for m in steps]) for name in steps[0]}
