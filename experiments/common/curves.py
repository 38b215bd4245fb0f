"""Figures of learning curves, and of errors against a hyperparameter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxrobust import figures
from jaxrobust.figures import Figure, Series

from .probe import FITTED, TEST
from .recipes import Recipe
from .rows import Outcome

LINES = {
    f"{TEST}_pgd_accuracy": "test robust",
    f"{FITTED}_pgd_accuracy": "train robust",
    f"{TEST}_clean_accuracy": "test standard",
    f"{FITTED}_clean_accuracy": "train standard",
}
"""The thesis's names of the four learning curves."""

WIDE = 9.0
"""Largest to smallest hyperparameter, from where their axis is logarithmic."""


def decays(settings: Recipe) -> tuple[float, ...]:
    """The epochs after which a piecewise schedule lowers the rate; none for other schedules."""
    if settings.schedule != "piecewise":
        return ()
    at = settings.schedule_options.get("at", (0.5, 0.75))
    return tuple(share * settings.epochs for share in at)


def course(runs: Sequence[Outcome], name: str, *, error: bool) -> Series:
    """A metric over the epochs: mean and standard deviation over runs of one row."""
    values = np.asarray([[row[name] for row in run.history] for run in runs])
    values = 100.0 - values if error else values
    epochs = [row["epoch"] for row in runs[0].history]
    spread = values.std(axis=0, ddof=1) if len(runs) > 1 else None
    return Series(epochs, values.mean(axis=0), spread)


def by_method(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    """The runs of each row, in order."""
    names = dict.fromkeys(outcome.method for outcome in outcomes)
    return {name: [o for o in outcomes if o.method == name] for name in names}


def learning_curves(
    outcomes: Sequence[Outcome], *, marks: Sequence[float] = (), error: bool = True
) -> Figure:
    """Robust and standard error (or accuracy), trained on and tested on, a panel for each row.

    `marks` are epochs, such as those of `decays`.
    """
    panels = {
        method: {label: course(runs, name, error=error) for name, label in LINES.items()}
        for method, runs in by_method(outcomes).items()
    }
    unit = "error (%)" if error else "accuracy (%)"
    return figures.learning_curves(panels, y=unit, marks=marks)


def robust_errors(outcomes: Sequence[Outcome], *, marks: Sequence[float] = ()) -> Figure:
    """Mean robust test error over the epochs, a line for each row (thesis, Figure 4.8)."""
    name = f"{TEST}_pgd_accuracy"
    lines = {
        method: course(runs, name, error=True)._replace(errors=None)
        for method, runs in by_method(outcomes).items()
    }
    panel = {"": lines}
    return figures.learning_curves(panel, y="robust test error (%)", marks=marks)


def hyperparameters(table: Sequence[Mapping[str, Any]]) -> dict[str, Figure]:
    """Final and best test errors against the number in the row's name, a figure for each family.

    Rows are called "family number"; families of one row are left out (thesis, Figures 4.22-4.30).
    """
    families: dict[str, list[Mapping[str, Any]]] = {}
    for row in table:
        family, _, value = row["method"].partition(" ")
        if value:
            families.setdefault(family, []).append(row)
    return {
        family: _against(family, sorted(rows, key=_value))
        for family, rows in families.items()
        if len(rows) > 1
    }


def _value(row: Mapping[str, Any]) -> float:
    return float(row["method"].split()[1])


def _against(family: str, rows: Sequence[Mapping[str, Any]]) -> Figure:
    values = [_value(row) for row in rows]
    lines = {}
    for kind in ("robust final", "robust best", "standard final", "standard best"):
        spread = [row[f"{kind} std"] for row in rows]
        errors = None if None in spread else spread
        lines[kind] = Series(values, [row[kind] for row in rows], errors)
    wide = min(values) > 0 and max(values) / min(values) > WIDE
    return figures.series_lines(lines, x=family, y="test error (%)", logarithmic=wide)
