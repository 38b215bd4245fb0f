"""A training run from data set to trained state, on images in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrobust import checks
from jaxrobust.data import Dataset, batches_per_epoch, epoch_batches, process_slice, shard
from jaxrobust.defenses import Defense
from jaxrobust.fingerprint import fingerprint
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
from jaxrobust.training.parallel import pmapped_steps, program, replicate
from jaxrobust.training.reporting import Callback, require_callbacks
from jaxrobust.training.state import TrainState
from jaxrobust.training.step import Augment, Parts

STEPS_PER_CALL = 100
"""Training steps in one call of the compiled program; progress shows between calls."""


def fit(
    seed: int,
    model: ModelLike,
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
    variables: Weights | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
) -> Run:
    """Trains `model` with `defense` on all devices, resuming where `run` left off.

    Every epoch visits a new seeded permutation of the training images (the remainder that fills no
    batch sits out; where some are pseudo-labeled, see `data.semi_supervised_batches`), and ends
    with validation and an atomic checkpoint; `run` then holds `config.json`, `identity.json`,
    `metrics.jsonl`, `metrics.csv`, `last/` and, with `best_by`, `best/`. With several processes
    (`processes.join`) each takes its share of every batch, the first one writes, and
    `run` must lie on storage that all of them read.

    Args:
      seed: the seed of parameters, batches, attacks and augmentation.
      model: the classifier to train: a `Model`, or a module of Flax or Equinox; see
        `models.as_model`. An NNX or Equinox module starts from the numbers it holds, whatever the
        seed, and is left as it is.
      defense: the training method.
      dataset: the data set, whose training examples are seen, bytes as x / 255; see
        `data.from_arrays` for your own.
      optimizer, multiplier: built for the run's length; see `steps_per_epoch`.
      epochs: the number of epochs of the whole run.
      batch_size: the size of the global batch, over all devices of all processes.
      run: the folder of the run.
      config: JSON-able settings to find the run by. `fit` identifies it by more: seed, epochs,
        batch size, training images, and what model, defense, optimizer, multiplier, augment
        and validate are made of (`contents`: numbers in closures, code of your own). Resuming a
        folder in which any of these differs is an error that names it.
      augment: applied to every training example; see `crop_flip`.
      validate: called after every epoch; its metrics join the row.
      best_by: name of the metric of `validate` whose largest value marks the best epoch; a new
        run then validates once before the first epoch too, to refuse an unknown name at once.
      stop: ends the run early; see `collapsed` and `stalled`. It may differ when a run resumes,
        such as a deadline; a run that is longer already stays so.
      variables: weights to start from in place of fresh ones, for example to go on from a standard
        model: `Variables`, or a dict with `params` and perhaps `batch_stats`, such as
        `saved_variables` gives. They are part of what identifies the run.
      callbacks: functions `callback(state, row)` that are called after every epoch, once its
        checkpoint is written, by process 0 alone: with the `TrainState` and the epoch's row of
        metrics; see `training.writers`. They may differ when a run resumes.
      progress: whether to show a progress bar.

    Returns:
      A `Run`: `state`, the `TrainState` after the last epoch, without a device axis; `history`, one
      row for every finished epoch, those before a resumption included; and `best`, the state of the
      best epoch, the last one without `best_by`. A row is a dict of the `epoch`, counted from 1,
      the `step` it ended at, the epoch's means of the training metrics (`train_loss`, ...), the
      multiplier it ended with, if any, the metrics of `validate`, `seconds` and
      `images_per_second`.

    Raises:
      TypeError: no model (the message names the wrapper or the mend), or callbacks that are no
        functions.
      ValueError: a model without parameters, a batch that does not divide over the devices, an
        impossible setting, examples outside of the box of the defense's threat set, variables that
        do not fit the model (the message names the first leaf), or a run folder with another
        config.
      FloatingPointError: a metric of training that is not finite; names the step, counted from 0.
      CheckpointError: a checkpoint that is broken or another run's, or that not all processes see.
      OSError: the run folder cannot be written, or another process trains in it (BlockingIOError,
        see `locks.claimed`).
      SystemExit: SIGINT or SIGTERM came; the epochs that ended are safe, see `signals.stoppable`.
    """
    checks.at_least("epochs", epochs, 1)
    model = as_model(model)
    require_callbacks(callbacks)
    per_epoch = steps_per_epoch(dataset, batch_size, replays=defense.replays)
    require_even(batch_size)
    sample = jnp.zeros((1, *dataset.shape), jnp.float32)
    require_classes(model, sample, dataset.name, dataset.num_classes)
    require_boxed(defense, dataset.train.x)
    seen = {
        "epochs": epochs,
        "batch_size": batch_size,
        "dataset": dataset.name,
        "images": fingerprint(dataset.train),
        "training_images": dataset.train.size,
        **({} if dataset.labeled is None else {"labeled_images": dataset.labeled}),
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
        total = epochs * per_epoch
        steps = program(pmapped_steps, parts, total)
        devices = jax.local_devices()
        data = replicate(dataset.train, devices)

        def play(state: TrainState, epoch: int) -> Iterator[tuple[TrainState, Metrics]]:
            order = epoch_batches(seed, epoch, dataset, batch_size)
            order = np.repeat(np.asarray(order), defense.replays, axis=0)
            mine = process_slice(
                order, process_index=jax.process_index(), process_count=jax.process_count()
            )
            for chunk in _chunks(np.asarray(mine), STEPS_PER_CALL):
                state, metrics = steps(state, data, shard(chunk, len(devices)))
                yield state, {name: np.asarray(value[0]) for name, value in metrics.items()}

        lengths = [Length(per_epoch, batch_size)] * epochs
        return train_epochs(
            resumed, play, lengths, stop=stop, callbacks=callbacks, progress=progress
        )


def steps_per_epoch(dataset: Dataset, batch_size: int, *, replays: int = 1) -> int:
    """Counts the steps in one pass over the training images, or the labeled ones if not all are.

    Args:
      dataset: the data set whose training images make the batches.
      batch_size: the size of the global batch.
      replays: how many steps in a row see the same batch, as `Defense.replays`.

    Returns:
      The number of whole batches, see `data.batches_per_epoch`, times `replays`.

    Raises:
      ValueError: as `data.batches_per_epoch`.
    """
    return batches_per_epoch(dataset, batch_size) * replays


def _chunks(order: np.ndarray, limit: int) -> list[np.ndarray]:
    """Runs of equal length where the count allows it, so that one program serves them all."""
    even = [c for c in range(2 * limit, limit // 2, -1) if len(order) % c == 0]
    size = even[0] if even else limit
    return [order[i : i + size] for i in range(0, len(order), size)]
