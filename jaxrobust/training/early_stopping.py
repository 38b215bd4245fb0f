"""When to end a run early, from the metrics of its epochs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxrobust import checks
from jaxrobust.training.folder import require_metric

Stop = Callable[[Sequence[Mapping[str, Any]]], bool]
"""The rows of the epochs so far -> whether to train no further."""


def collapsed(metric: str, *, drop: float) -> Stop:
    """Stops after an epoch in which `metric` fell by more than `drop`.

    Catastrophic overfitting: single-step training loses its robustness to PGD within an epoch
    (Wong's thesis, section 4.1.2, which checks PGD-5 on a training batch against a drop of 20
    points). Give `fit` a `validate` with PGD on held-out images and `best_by` this metric; the
    state before the collapse is then in `Run.best`.

    Args:
      metric: the name of a metric in the rows of the history.
      drop: the largest fall allowed, in the metric's own units.

    Returns:
      A function of the history (one row of metrics per finished epoch) that returns whether to
      stop, for `stop` of `fit`.

    Raises:
      ValueError: drop not positive; in training, a metric that the rows lack.
    """
    checks.positive("drop", drop)

    def stop(history: Sequence[Mapping[str, Any]]) -> bool:
        require_metric(metric, history[-1], option="metric")
        return len(history) > 1 and history[-2][metric] - history[-1][metric] > drop

    return stop


def stalled(metric: str, *, epochs: int) -> Stop:
    """Stops once the largest `metric` is so many epochs old: the usual early stopping.

    On held-out robust accuracy it is the remedy for robust overfitting that Wong's thesis finds
    (section 4.3.9). NaN is never the largest.

    Args:
      metric: the name of a metric in the rows of the history.
      epochs: the age of the largest value, in epochs, at which training stops.

    Returns:
      A function of the history (one row of metrics per finished epoch) that returns whether to
      stop, for `stop` of `fit`.

    Raises:
      ValueError: epochs below 1; in training, a metric that the rows lack.
    """
    checks.at_least("epochs", epochs, 1)

    def stop(history: Sequence[Mapping[str, Any]]) -> bool:
        require_metric(metric, history[-1], option="metric")
        scores = [-float("inf") if row[metric] != row[metric] else row[metric] for row in history]
        return len(scores) - 1 - scores.index(max(scores)) >= epochs

    return stop
