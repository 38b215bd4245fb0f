"""The run folder: what identifies its run, its checkpoints and its metrics."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxrobust.contents import contents
from jaxrobust.files import sweep, write_csv, write_jsonl, write_text_atomic
from jaxrobust.fingerprint import differences
from jaxrobust.training import checkpoint
from jaxrobust.training.seal import same
from jaxrobust.training.state import TrainState

CONFIG, IDENTITY, METRICS = "config.json", "identity.json", "metrics.jsonl"


class Identity(NamedTuple):
    """What tells a run from others, as it reads back from JSON."""

    config: dict[str, Any]
    """The caller's settings, and those that `fit` itself sees."""
    parts: dict[str, Any]
    """What everything that was given is made of; see `contents`."""


def identify(config: Mapping[str, Any], parts: Mapping[str, Any]) -> Identity:
    """The identity of a run that is given these parts, by name."""
    return Identity(_plain(config), _plain({n: contents(part) for n, part in parts.items()}))


def require_same(folder: Path, ours: Identity) -> None:
    """Raises ValueError if the folder holds a run of another identity, or of an unknown one."""
    kinds = (checkpoint.LAST, checkpoint.BEST)
    if not (folder / CONFIG).exists():
        if any((folder / kind).exists() for kind in kinds):
            raise ValueError(
                f"{folder} holds checkpoints but no {CONFIG}, so nothing tells whose they are; "
                "choose another folder or delete that one"
            )
        return
    if not (folder / IDENTITY).exists():
        # Runs of earlier versions too: taken on trust, they would pass for whatever is asked for.
        raise ValueError(
            f"{folder} holds a run but no {IDENTITY}, so nothing tells what it was trained with; "
            "choose another folder or delete that one"
        )
    held = Identity(_read(folder / CONFIG), _read(folder / IDENTITY))
    told = [differences(*pair) for pair in zip(held, ours, strict=True)]
    if any(told):
        raise ValueError(
            f"{folder} holds a run with other settings ({'; '.join(filter(None, told))}); "
            "choose another folder or delete that one"
        )


def begin(folder: Path, identity: Identity, history: list[dict[str, Any]]) -> None:
    """Writes the identity and the rows of the epochs found done; sweeps what a kill left half done.

    Raises:
      OSError: a file cannot be written; the message names it.
    """
    sweep(folder)
    for kind in (checkpoint.LAST, checkpoint.BEST):
        checkpoint.sweep(folder, kind)
    # The config last: where it is, the identity is too.
    write_text_atomic(folder / IDENTITY, json.dumps(identity.parts, indent=1) + "\n")
    write_text_atomic(folder / CONFIG, json.dumps(identity.config, indent=2) + "\n")
    # A kill between checkpoint and metrics left these one epoch behind.
    _write_metrics(folder, history)


def write(
    folder: Path, state: TrainState, history: list[dict[str, Any]], best_by: str | None
) -> None:
    """Writes a finished epoch: its checkpoint, also as the best where it is, and its row.

    Raises:
      ValueError: the last row lacks the metric `best_by`.
      OSError: a file cannot be written.
    """
    if best_by is not None:
        require_metric(best_by, history[-1])
    # The last first: after a kill between the two, `mend` makes the best of it.
    checkpoint.save(folder, checkpoint.LAST, state, history)
    if best_by is not None and best_epoch(history, best_by) == len(history):
        checkpoint.save(folder, checkpoint.BEST, state, history)
    _write_metrics(folder, history)


def require_whole(
    folder: Path, state: TrainState, history: list[dict[str, Any]], best_by: str | None
) -> None:
    """Raises CheckpointError where the folder tells of more than its last epoch, given here, holds.

    That is rows of further epochs, or a best epoch before it that `best` does not hold.
    """
    file = folder / METRICS
    rows = file.read_bytes().count(b"\n") if file.exists() else 0
    # A kill between checkpoint and metrics leaves one row less, never one more.
    if rows > len(history):
        raise checkpoint.CheckpointError(
            f"{file} tells of {rows} finished epochs, but {folder / checkpoint.LAST} holds "
            f"{len(history)}: a checkpoint is lost; delete the run folder or choose another"
        )
    if best_by is not None and history and best_epoch(history, best_by) < len(history):
        read_best(folder, state, history, best_by)


def read_best(
    folder: Path, like: TrainState, history: list[dict[str, Any]], best_by: str
) -> TrainState:
    """The state of the best epoch by the history; CheckpointError where `best` holds another."""
    best = best_epoch(history, best_by)
    found = checkpoint.restore(folder, checkpoint.BEST, like)
    # By what all processes agree on: each has its own clock.
    told = ("epoch", "step", best_by)
    one, other = (
        [{name: row.get(name) for name in told} for row in rows]
        for rows in (found.history if found else [], history[:best])
    )
    if found is None or not same(one, other):
        held = "nothing" if found is None else f"epoch {len(found.history)} of another history"
        raise checkpoint.CheckpointError(
            f"{folder / checkpoint.BEST} holds {held}, but by {best_by} the best epoch was "
            f"{best}; delete the run folder or choose another"
        )
    return found.state


def mend(
    folder: Path, state: TrainState, history: list[dict[str, Any]], best_by: str | None
) -> None:
    """Saves the last epoch as the best where it is, and a kill came between the two."""
    if best_by is None or not history or best_epoch(history, best_by) < len(history):
        return
    try:
        read_best(folder, state, history, best_by)
    except checkpoint.CheckpointError:
        checkpoint.save(folder, checkpoint.BEST, state, history)


def _write_metrics(folder: Path, history: list[dict[str, Any]]) -> None:
    write_jsonl(folder / METRICS, history)
    write_csv(folder / "metrics.csv", history)


def best_epoch(history: Sequence[Mapping[str, Any]], best_by: str) -> int:
    """Counted from 1: the first with the largest score; NaN is beaten by anything."""
    scores = [row.get(best_by, np.nan) for row in history]
    return int(np.argmax([-np.inf if np.isnan(score) else score for score in scores])) + 1


def require_metric(name: str, metrics: Mapping[str, float], *, option: str = "best_by") -> None:
    """Raises ValueError, naming the option, unless `name` is one of the metrics."""
    if name not in metrics:
        known = ", ".join(sorted(metrics))
        raise ValueError(f"{option}={name!r} is no metric of this run; it has: {known}")


def _read(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{file} holds no JSON object; delete the run folder or choose another"
        ) from error


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config as it reads back from JSON: tuples are lists."""
    return json.loads(json.dumps(config))
