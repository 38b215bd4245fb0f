"""Figures 4.2, 4.4, 4.5 and 4.7 of Wong's thesis from trained runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxrobust import figures
from jaxrobust.figures import Figure, Series

from ..common.rows import BEST_BY, Outcome

FGSM = "train_adversarial_accuracy"


def epoch_rows(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """By method and epoch, means over the seeds that got so far: both accuracies in %.

    Of the training attack on the batches it trained on, and of PGD on the images held out.
    """
    rows = []
    for method in dict.fromkeys(outcome.method for outcome in outcomes):
        histories = [o.history for o in outcomes if o.method == method]
        for epoch in range(max(map(len, histories))):
            there = [h[epoch] for h in histories if len(h) > epoch]
            rows.append(
                {
                    "method": method,
                    "epoch": epoch + 1,
                    "seeds": len(there),
                    "training attack": float(np.mean([row[FGSM] for row in there])),
                    "PGD held out": float(np.mean([row[BEST_BY] for row in there])),
                }
            )
    return rows


def epochs_figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """PGD accuracy on the images held out over the epochs, a line for each method."""
    series = {
        method: _over_epochs(rows, method, "PGD held out")
        for method in dict.fromkeys(row["method"] for row in rows)
    }
    return figures.series_lines(series, x="epoch", y="PGD accuracy, held out (%)")


def overfitting_figure(rows: Sequence[Mapping[str, Any]], methods: Sequence[str]) -> Figure:
    """Figure 4.2: accuracy on the training attack beside that on PGD, for each of the methods."""
    series = {
        f"{method}: {kind}": _over_epochs(rows, method, kind)
        for method in methods
        for kind in ("training attack", "PGD held out")
    }
    return figures.series_lines(series, x="epoch", y="accuracy (%)")


def _over_epochs(rows: Sequence[Mapping[str, Any]], method: str, column: str) -> Series:
    own = [row for row in rows if row["method"] == method]
    return Series([row["epoch"] for row in own], [row[column] for row in own])


def over(rows: Sequence[Mapping[str, Any]], x: str, column: str) -> Series:
    """The mean of a table's column against another one, with standard errors over the seeds."""
    errors = [(row[f"{column} std"] or 0.0) / row["seeds"] ** 0.5 for row in rows]
    return Series([row[x] for row in rows], [row[column] for row in rows], errors)
