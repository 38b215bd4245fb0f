"""The run folder: its config, its checkpoints and its metrics."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxrobust.files import write_csv, write_jsonl, write_text_atomic
from jaxrobust.identity import differences
from jaxrobust.training import checkpoint
from jaxrobust.training.state import TrainState

CONFIG = "config.json"


def require_same(folder: Path, config: Mapping[str, Any]) -> None:
    """Raises ValueError if the folder holds a run with another config, or with none."""
    config = _plain(config)
    file = folder / CONFIG
    kinds = (checkpoint.LAST, checkpoint.BEST)
    if not file.exists() and any((folder / kind).exists() for kind in kinds):
        raise ValueError(
            f"{folder} holds checkpoints but no {CONFIG}, so nothing tells whose they are; "
            "choose another folder or delete that one"
        )
    if file.exists():
        try:
            held = dict(json.loads(file.read_text()))
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{file} holds no JSON object; delete the run folder or choose another"
            ) from error
        told = differences(held, config)
        if told:
            raise ValueError(
                f"{folder} holds a run with other settings ({told}); "
                "choose another folder or delete that one"
            )


def begin(folder: Path, config: Mapping[str, Any], history: list[dict[str, Any]]) -> None:
    """Writes the config, and the rows of the epochs that were found done.

    Raises:
      OSError: a file cannot be written; the message names it.
    """
    write_text_atomic(folder / CONFIG, json.dumps(_plain(config), indent=2) + "\n")
    # A kill between checkpoint and metrics left these one epoch behind.
    _write_metrics(folder, history)


def write(
    folder: Path, state: TrainState, history: list[dict[str, Any]], best_by: str | None
) -> None:
    """Writes a finished epoch: its checkpoint, also as the best where it is, and its row.

    Raises:
      ValueError: the last row lacks the metric `best_by`. OSError: a file cannot be written.
    """
    # The best first: after a kill between the two, the epoch is repeated and wins again.
    if best_by is not None and _is_best(history, best_by):
        checkpoint.save(folder, checkpoint.BEST, state, history)
    checkpoint.save(folder, checkpoint.LAST, state, history)
    _write_metrics(folder, history)


def _write_metrics(folder: Path, history: list[dict[str, Any]]) -> None:
    write_jsonl(folder / "metrics.jsonl", history)
    write_csv(folder / "metrics.csv", history)


def _is_best(history: list[dict[str, Any]], best_by: str) -> bool:
    """Whether the last row beats all before it; NaN beats nothing and is beaten by anything."""
    require_metric(best_by, history[-1])
    *before, last = (
        -np.inf if np.isnan(score := row.get(best_by, np.nan)) else score for row in history
    )
    return not before or last > max(before)


def require_metric(name: str, metrics: Mapping[str, float], *, option: str = "best_by") -> None:
    """Raises ValueError, naming the option, unless `name` is one of the metrics."""
    if name not in metrics:
        known = ", ".join(sorted(metrics))
        raise ValueError(f"{option}={name!r} is no metric of this run; it has: {known}")


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config as it reads back from JSON: tuples are lists."""
    return json.loads(json.dumps(config))
