"""Errors over the epochs of training, and what is left of them in a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..common.rows import BEST_BY, Outcome
from ..common.tables import averaged, beside, remarks

FINAL = 5
"""Last epochs whose mean is the final error (Wong's thesis, section 4.3.4)."""

ROBUST, STANDARD = "test_pgd_accuracy", "test_clean_accuracy"

COLUMNS = "robust final / best, standard final / best"


def errors(history: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    """Error in % after every epoch, from the accuracy called `name`."""
    return 100.0 - np.asarray([row[name] for row in history])


def stopped(history: Sequence[Mapping[str, Any]]) -> int:
    """The epoch, counted from 0, that early stopping chooses: the images held out decide."""
    return int(np.argmax([row[BEST_BY] for row in history]))


def figures_of(history: Sequence[Mapping[str, Any]], *, stop: bool = False) -> dict[str, float]:
    """The columns of Table 4.13 for one run, errors in % on test images.

    Final: the mean of the last 5 epochs, or with `stop` the epoch of early stopping. Best: the
    epoch of lowest robust test error, for the standard error too. Diff: final minus best.
    """
    robust, standard = errors(history, ROBUST), errors(history, STANDARD)
    final = [stopped(history)] if stop else slice(-FINAL, None)
    best = int(np.argmin(robust))
    columns = {}
    for name, course in (("robust", robust), ("standard", standard)):
        columns[f"{name} final"] = float(course[final].mean())
        columns[f"{name} best"] = float(course[best])
        columns[f"{name} diff"] = columns[f"{name} final"] - columns[f"{name} best"]
    return columns


def table_of(
    rows: Mapping[str, tuple[str, bool]],
    outcomes: Sequence[Outcome],
    published: Mapping[str, Sequence[float | None]],
) -> list[dict[str, Any]]:
    """A row for each name: mean and standard deviation over seeds, beside the published figures.

    Args:
      rows: name -> (method whose runs it shows, whether those are stopped early).
      published: final and best robust error, final and best standard error, by name; no column
        where it is empty.
    """
    table = []
    for name, (method, stop) in rows.items():
        own = [o for o in outcomes if o.method == method]
        row = {"method": name, **averaged([figures_of(o.history, stop=stop) for o in own])}
        row |= remarks(own, outcomes)
        table.append(row | beside(name, published or None, COLUMNS))
    return table
