"""What a run says of itself: a progress bar while it goes on, a row of metrics per epoch."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.progress import Progress, TextColumn, TimeRemainingColumn

from jaxrobust.training.state import TrainState

Metrics = dict[str, np.ndarray]
"""Metrics by name, `[S]`: of S steps in a row."""

Report = Callable[[Metrics], None]
"""Tells of steps that are done."""

Callback = Callable[[TrainState, Mapping[str, Any]], None]
"""(state after an epoch, the epoch's row of metrics) -> nothing."""


class Length(NamedTuple):
    """The length of an epoch."""

    steps: int
    batch_size: int


@contextlib.contextmanager
def progress_bar(name: str, *, total: int, done: int, shown: bool) -> Iterator[Report]:
    """A bar of `total` steps with the metrics of the last ones; on the first process alone."""
    with Progress(
        *Progress.get_default_columns()[:-1],
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        disable=not shown or jax.process_index() != 0,
    ) as bar:
        task = bar.add_task(name, total=total, completed=done, note="")
        yield lambda metrics: bar.update(task, advance=count([metrics]), note=_note(metrics))


class Clock:
    """The seconds of an epoch, and of its first call, which compiles."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.first = 0.0

    def tick(self) -> None:
        """After each call."""
        self.first = self.first or time.perf_counter() - self.began

    def rates(self, length: Length, first_steps: int) -> dict[str, float]:
        """Seconds, and images a second; without the first call's `first_steps` if there are more.

        To be called when the epoch's last call is over.
        """
        trained = time.perf_counter() - self.began
        rest = length.steps - first_steps
        steps, seconds = (rest, trained - self.first) if rest else (length.steps, trained)
        return {
            "seconds": round(trained, 3),
            "images_per_second": round(steps * length.batch_size / seconds, 1),
        }


def epoch_row(epoch: int, step: int, parts: Sequence[Metrics], state: TrainState) -> dict[str, Any]:
    """The means of an epoch's metrics, and the multiplier that it ends with."""
    row: dict[str, Any] = {"epoch": epoch + 1, "step": step}
    for name in parts[0]:
        row[f"train_{name}"] = float(np.concatenate([part[name] for part in parts]).mean())
    if state.multiplier is not None:
        final = scalars({"multiplier": np.asarray(state.multiplier.value)[None]})
        row |= {name: float(value[0]) for name, value in final.items()}
    return row


def require_callbacks(callbacks: Sequence[Callback]) -> None:
    """Raises TypeError unless these are functions in a list or tuple."""
    if callable(callbacks) or not all(map(callable, callbacks)):
        raise TypeError(
            f"callbacks must be a list of functions (state, row) -> None, got {callbacks!r}"
        )


def scalars(metrics: Metrics) -> Metrics:
    """Metrics `[steps]`; of those with one value per constraint, `[steps, G]`, one for each."""
    named = {}
    for name, values in metrics.items():
        if values.ndim == 1:
            named[name] = values
        else:
            named |= {f"{name}_{i}": column for i, column in enumerate(values.T)}
    return named


def count(parts: Sequence[Metrics]) -> int:
    """The steps that metrics are of."""
    return sum(len(part["loss"]) for part in parts)


def _note(metrics: Metrics) -> str:
    shown = ("loss", "clean_accuracy", "adversarial_accuracy", "multiplier")
    return "  ".join(f"{n} {metrics[n].mean():.3f}" for n in shown if n in metrics)
