"""A training run from data set to trained state: epochs, metrics, checkpoints, resume."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import multihost_utils
from rich.progress import Progress, TextColumn, TimeRemainingColumn

from jaxrobust import checks
from jaxrobust.data import Dataset, permutation, process_slice, shard
from jaxrobust.defenses import Defense
from jaxrobust.lagrangian import Multiplier
from jaxrobust.training import checkpoint
from jaxrobust.training.early_stopping import Stop
from jaxrobust.training.folder import begin, require_metric, require_same, write
from jaxrobust.training.parallel import StepsFn, pmapped_steps, replicate, unreplicate
from jaxrobust.training.state import TrainState, init_state
from jaxrobust.training.step import Augment, make_step
from jaxrobust.types import Model, Variables

STEPS_PER_CALL = 100
"""Training steps in one call of the compiled program; progress shows between calls."""

Validate = Callable[[Variables], Mapping[str, float]]
"""Trained variables -> metrics of held-out data, by name."""


class Run(NamedTuple):
    """A finished training run."""

    state: TrainState
    history: list[dict[str, Any]]
    """One row of metrics per epoch."""
    best: TrainState
    """The state of the best epoch by validation; the last one where none was asked for."""


def fit(
    seed: int,
    model: Model,
    defense: Defense,
    dataset: Dataset,
    optimizer: optax.GradientTransformation,
    *,
    epochs: int,
    batch_size: int,
    run: str | Path,
    config: Mapping[str, Any],
    multiplier: Multiplier | None = None,
    augment: Augment | None = None,
    validate: Validate | None = None,
    best_by: str | None = None,
    stop: Stop | None = None,
    progress: bool = True,
) -> Run:
    """Trains `model` with `defense` on all devices, resuming where `run` left off.

    Every epoch visits a new seeded permutation of the training images (the remainder that fills no
    batch sits out), and ends with validation and an atomic checkpoint; `run` then holds
    `config.json`, `metrics.jsonl`, `metrics.csv`, `last/` and, with `best_by`, `best/`. With
    several processes (`jax.distributed.initialize()`) each takes its share of every batch, the
    first one writes, and `run` must lie on storage that all of them read.

    Args:
      seed: of parameters, batches, attacks and augmentation.
      optimizer, multiplier: built for the run's length; see `steps_per_epoch`.
      batch_size: of the global batch, over all devices of all processes.
      config: JSON-able settings that identify the run beside those that `fit` itself sees (seed,
        epochs, batch size, data set): name the method and its numbers. Resuming a folder with other
        settings is an error.
      validate: called after every epoch; its metrics join the row.
      best_by: name of the metric of `validate` whose largest value marks the best epoch; a new
        run then validates once before the first epoch too, to refuse an unknown name at once.
      stop: ends the run early; see `collapsed` and `stalled`.

    Raises:
      ValueError: a batch that does not divide over the devices, an impossible setting, or a run
        folder with another config.
      FloatingPointError: a metric of training that is not finite; names the step, counted from 0.
      CheckpointError: a checkpoint that is broken or another run's, or that not all processes see.
      OSError: the run folder cannot be written.
    """
    checks.at_least("epochs", epochs, 1)
    folder = Path(run)
    per_epoch = steps_per_epoch(dataset, batch_size, replays=defense.replays)
    devices = jax.local_devices()
    if batch_size % jax.device_count():
        raise ValueError(
            f"batch_size={batch_size} does not divide over {jax.device_count()} devices"
        )
    if best_by is not None and validate is None:
        raise ValueError(f"best_by={best_by!r} names a metric of `validate`, which is not given")
    sample = jnp.zeros((1, *dataset.shape), jnp.float32)
    _require_classes(model, sample, dataset)
    config = {
        **config,
        "fit": {
            "seed": seed,
            "epochs": epochs,
            "batch_size": batch_size,
            "dataset": dataset.name,
            "training_images": dataset.train.size,
            "best_by": best_by,
        },
    }
    require_same(folder, config)
    state = init_state(jax.random.key(seed), model, defense, optimizer, multiplier, sample)
    history: list[dict[str, Any]] = []
    found = checkpoint.restore(folder, checkpoint.LAST, state)
    if found is not None:
        state, history = found
    _require_agreement(folder, len(history))
    if best_by is not None and not history:
        require_metric(best_by, validate(state.variables))
    if jax.process_index() == 0:
        begin(folder, config, history)

    steps = _program(model, defense, optimizer, multiplier, augment, epochs * per_epoch)
    data = replicate(dataset.train, devices)
    template, state = state, replicate(state, devices)

    with Progress(
        *Progress.get_default_columns()[:-1],
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        disable=not progress or jax.process_index() != 0,
    ) as bar:
        task = bar.add_task(
            folder.name, total=epochs * per_epoch, completed=len(history) * per_epoch, note=""
        )
        for epoch in range(len(history), epochs):
            if stop is not None and history and stop(history):
                break
            began = time.perf_counter()
            order = permutation(seed, epoch, dataset.train.size, batch_size)
            order = np.repeat(np.asarray(order), defense.replays, axis=0)
            mine = process_slice(
                order, process_index=jax.process_index(), process_count=jax.process_count()
            )
            parts, first = [], 0.0
            for chunk in _chunks(np.asarray(mine), STEPS_PER_CALL):
                state, metrics = steps(state, data, shard(chunk, len(devices)))
                parts.append({name: np.asarray(value[0]) for name, value in metrics.items()})
                _require_finite(parts[-1], epoch, epoch * per_epoch + _count(parts[:-1]))
                first = first or time.perf_counter() - began
                bar.update(task, advance=len(chunk), note=_note(parts[-1]))
            trained = time.perf_counter() - began

            current = unreplicate(state)
            row = _row(epoch, per_epoch, parts, current)
            row |= {name: float(v) for name, v in (validate or _nothing)(current.variables).items()}
            row["seconds"] = round(trained, 3)
            rest = per_epoch - len(parts[0]["loss"])
            row["images_per_second"] = (
                round(rest * batch_size / (trained - first), 1)
                if rest
                else round(per_epoch * batch_size / trained, 1)
            )
            history = [*history, row]
            if jax.process_index() == 0:
                write(folder, current, history, best_by)

    # The other processes may read the best checkpoint only once the first has written it.
    _meet("written")
    last = unreplicate(state)
    best = checkpoint.restore(folder, checkpoint.BEST, template) if best_by else None
    return Run(last, history, best.state if best else last)


def _require_classes(model: Model, sample: jax.Array, dataset: Dataset) -> None:
    """Raises ValueError unless the model has a logit for each class of the data."""

    def logits(x: jax.Array) -> jax.Array:
        variables = model.init(jax.random.key(0), x)
        return model.apply(variables, x, train=False, key=None, axes=())[0]

    found = jax.eval_shape(logits, sample).shape
    if found != (1, dataset.num_classes):
        raise ValueError(
            f"the model gives logits of shape {found} for one example, but {dataset.name!r} has "
            f"{dataset.num_classes} classes; build it with num_classes={dataset.num_classes}"
        )


@functools.lru_cache(maxsize=8)
def _program(
    model: Model,
    defense: Defense,
    optimizer: optax.GradientTransformation,
    multiplier: Multiplier | None,
    augment: Augment | None,
    total_steps: int,
) -> StepsFn:
    """The compiled steps, shared by runs that differ in their seed alone."""
    step = make_step(
        model, defense, optimizer, multiplier=multiplier, augment=augment, total_steps=total_steps
    )
    return pmapped_steps(step)


def steps_per_epoch(dataset: Dataset, batch_size: int, *, replays: int = 1) -> int:
    """Steps in one pass over the training images: its whole batches, each seen `replays` times."""
    checks.at_least("batch_size", batch_size, 1)
    size = dataset.train.size
    if size < batch_size:
        raise ValueError(
            f"{size} training images fill no batch of {batch_size}; use a smaller batch_size"
        )
    return size // batch_size * replays


def _chunks(order: np.ndarray, limit: int) -> list[np.ndarray]:
    """Runs of equal length where the count allows it, so that one program serves them all."""
    even = [c for c in range(2 * limit, limit // 2, -1) if len(order) % c == 0]
    size = even[0] if even else limit
    return [order[i : i + size] for i in range(0, len(order), size)]


def _count(parts: list[dict[str, np.ndarray]]) -> int:
    return sum(len(part["loss"]) for part in parts)


def _require_finite(metrics: dict[str, np.ndarray], epoch: int, before: int) -> None:
    first = {n: int(np.argmax(~np.isfinite(v))) for n, v in metrics.items()}
    broken = [n for n, i in first.items() if not np.isfinite(metrics[n][i])]
    if broken:
        # The metric that broke first shows the cause: a gradient does before the losses it spoils.
        name = min(broken, key=first.__getitem__)
        raise FloatingPointError(
            f"{name} became {metrics[name][first[name]]} at step {before + first[name]} "
            f"(epoch {epoch + 1}); the last good checkpoint stands. "
            "Lower the learning rate or clip the gradient"
        )


def _note(metrics: dict[str, np.ndarray]) -> str:
    shown = ("loss", "clean_accuracy", "adversarial_accuracy", "multiplier")
    return "  ".join(f"{n} {metrics[n].mean():.3f}" for n in shown if n in metrics)


def _row(
    epoch: int, per_epoch: int, parts: list[dict[str, np.ndarray]], state: TrainState
) -> dict[str, Any]:
    row: dict[str, Any] = {"epoch": epoch + 1, "step": (epoch + 1) * per_epoch}
    for name in parts[0]:
        row[f"train_{name}"] = float(np.concatenate([part[name] for part in parts]).mean())
    if state.multiplier is not None:
        row["multiplier"] = float(state.multiplier.value)
    return row


def _nothing(variables: Variables) -> dict[str, float]:
    del variables
    return {}


def _require_agreement(folder: Path, epochs: int) -> None:
    """Processes that start at different epochs would wait for one another forever."""
    found = np.ravel(multihost_utils.process_allgather(np.int32(epochs)))
    if (found != found[0]).any():
        raise checkpoint.CheckpointError(
            f"the processes find {', '.join(map(str, found))} finished epochs under {folder}; "
            "put the run folder on storage that all of them share"
        )


def _meet(name: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
