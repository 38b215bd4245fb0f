"""What training loops share: epochs with metrics, progress, checkpoints and resume."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxrobust.fingerprint import fingerprint
from jaxrobust.locks import claimed
from jaxrobust.signals import stoppable
from jaxrobust.training import checkpoint
from jaxrobust.training.early_stopping import Stop
from jaxrobust.training.folder import (
    Identity,
    begin,
    identify,
    mend,
    read_best,
    require_metric,
    require_same,
    require_whole,
    write,
)
from jaxrobust.training.initial import Weights, fitted
from jaxrobust.training.parallel import replicate, unreplicate
from jaxrobust.training.reporting import (
    Callback,
    Clock,
    Length,
    Metrics,
    count,
    epoch_row,
    progress_bar,
    scalars,
)
from jaxrobust.training.state import TrainState, init_state
from jaxrobust.training.step import Parts
from jaxrobust.types import Array, Model, PyTree, Variables

Validate = Callable[[Variables], Mapping[str, float]]
"""Trained variables -> metrics of held-out data, by name."""

Play = Callable[[TrainState, int], Iterator[tuple[TrainState, Metrics]]]
"""(replicated state, epoch) -> the state after some steps and their metrics, to the epoch's end."""


class Run(NamedTuple):
    """A finished training run."""

    state: TrainState
    history: list[dict[str, Any]]
    """One row of metrics per epoch."""
    best: TrainState
    """The state of the best epoch by validation; the last one where none was asked for."""


class Resumed(NamedTuple):
    """A run where its folder left it."""

    folder: Path
    state: TrainState
    history: list[dict[str, Any]]
    validate: Validate | None
    best_by: str | None


@contextlib.contextmanager
def begun(
    folder: Path,
    seed: int,
    parts: Parts,
    sample: Array,
    seen: Mapping[str, Any],
    *,
    config: Mapping[str, Any],
    validate: Validate | None,
    best_by: str | None,
    variables: Weights | None,
) -> Iterator[Resumed]:
    """The run where its folder left it, or at its start; the folder is claimed until the end.

    Args:
      sample: a batch that shows the model its input shape.
      seen: what the training loop was given beside `parts`, by name; with `config` and `parts` it
        tells runs apart.
      config, validate, best_by, variables: see `fit`.

    Raises:
      ValueError: the folder holds another run; and as `resume`, with its errors.
    """
    model, defense, optimizer, multiplier, _ = parts
    seen = {"seed": seed, **seen, "best_by": best_by}
    key, start = jax.random.key(seed), None
    if variables is not None:
        start = fitted(jax.eval_shape(model.init, key, sample), variables)
        seen["variables"] = fingerprint(start)
    identity = identify({**config, "fit": seen}, {**parts._asdict(), "validate": validate})
    require_scored(best_by, validate)
    with claimed(folder):
        require_same(folder, identity)
        state = init_state(key, model, defense, optimizer, multiplier, sample, variables=start)
        yield resume(folder, identity, state, validate=validate, best_by=best_by)


def resume(
    folder: Path,
    identity: Identity,
    state: TrainState,
    *,
    validate: Validate | None,
    best_by: str | None,
) -> Resumed:
    """Restores the last epoch of `folder`, or starts from `state`, and claims the folder.

    Raises:
      ValueError: `best_by` names no metric of `validate`.
      CheckpointError, OSError: see `fit`.
    """
    history: list[dict[str, Any]] = []
    found = checkpoint.restore(folder, checkpoint.LAST, state)
    if found is not None:
        state, history = found
    require_whole(folder, state, history, best_by)
    _require_agreement(folder, len(history))
    if best_by is not None and not history:
        require_metric(best_by, {} if validate is None else validate(state.variables))
    if jax.process_index() == 0:
        begin(folder, identity, history)
        mend(folder, state, history, best_by)
    return Resumed(folder, state, history, validate, best_by)


def train_epochs(
    resumed: Resumed,
    play: Play,
    lengths: Sequence[Length],
    *,
    stop: Stop | None,
    callbacks: Sequence[Callback],
    progress: bool,
) -> Run:
    """Plays the epochs that are left; each ends with validation and an atomic checkpoint.

    Args:
      lengths: of all epochs, in order.
      stop, callbacks, progress: see `fit`.

    Raises:
      FloatingPointError: a metric that is not finite.
      OSError: the folder cannot be written.
      SystemExit: a signal asked to end; the epochs that ended are saved.
    """
    folder, template, history, validate, best_by = resumed
    state = replicate(template, jax.local_devices())
    ends = np.cumsum([length.steps for length in lengths]).tolist()
    done = ends[len(history) - 1] if history else 0

    def safe() -> str:
        done = f"{len(history)} of {len(lengths)} epochs"
        return f"{done} are safe in {folder}, and the same call goes on from there"

    with (
        stoppable(safe) as check,
        progress_bar(folder.name, total=ends[-1], done=done, shown=progress) as report,
    ):
        for epoch in range(len(history), len(lengths)):
            if stop is not None and history and stop(history):
                break
            clock, parts = Clock(), []
            start = ends[epoch] - lengths[epoch].steps
            for renewed, found in play(state, epoch):
                state, metrics = renewed, scalars(found)
                _require_finite(metrics, epoch, start + count(parts))
                parts.append(metrics)
                clock.tick()
                check()
                report(metrics)
            rates = clock.rates(lengths[epoch], count(parts[:1]))

            current = unreplicate(state)
            row = epoch_row(epoch, ends[epoch], parts, current)
            if validate is not None:
                row |= {name: float(v) for name, v in validate(current.variables).items()}
            history = [*history, row | rates]
            if jax.process_index() == 0:
                write(folder, current, history, best_by)
                for call in callbacks:
                    call(current, history[-1])
            check()

    # The other processes may read the best checkpoint only once the first has written it.
    _meet("written")
    last = unreplicate(state)
    best = read_best(folder, template, history, best_by) if best_by is not None else last
    return Run(last, history, best)


def require_classes(model: Model, sample: Array, name: str, num_classes: int) -> None:
    """Raises ValueError unless the model has parameters, and a logit for each class of `name`."""

    def run(x: Array) -> tuple[PyTree, Array]:
        variables = model.init(jax.random.key(0), x)
        return variables.params, model.apply(variables, x, train=False, key=None, axes=())[0]

    params, logits = jax.eval_shape(run, sample)
    if not jax.tree.leaves(params):
        raise ValueError(
            "the model has no parameters to train: a plain function is for evaluation; wrap a "
            "network whose numbers are arguments by models.from_init_apply(init, apply)"
        )
    if logits.shape != (1, num_classes):
        raise ValueError(
            f"the model gives logits of shape {logits.shape} for one example, but {name!r} has "
            f"{num_classes} classes; build it with num_classes={num_classes}"
        )


def require_scored(best_by: str | None, validate: Validate | None) -> None:
    """Raises ValueError where there is a metric to choose by and nothing that gives it."""
    if best_by is not None and validate is None:
        raise ValueError(f"best_by={best_by!r} names a metric of `validate`, which is not given")


def require_even(batch_size: int) -> None:
    """Raises ValueError unless a batch divides over all devices."""
    if batch_size % jax.device_count():
        raise ValueError(
            f"batch_size={batch_size} does not divide over {jax.device_count()} devices; take a "
            "multiple of their number"
        )


def _require_finite(metrics: Metrics, epoch: int, before: int) -> None:
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
