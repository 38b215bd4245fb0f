"""A training history: accuracies, losses, multiplier and slack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from jaxrobust.figures.need import need

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAMES = {
    "train_clean_loss": "clean",
    "train_adversarial_loss": "adversarial",
    "val_clean_accuracy": "clean",
    "val_pgd_accuracy": "PGD",
}
"""Legends of the usual columns of a training history; others show their own names."""


def training_curves(history: Sequence[Mapping[str, float]], *, rho: float | None = None) -> Figure:
    """Accuracies, losses, multiplier and slack over the epochs (DALE, Figure 2).

    Args:
      history: a row per epoch with `epoch` (default: its position) and any of the columns
        `*_accuracy` (in %), `*_loss`, `multiplier` and `slack` (rho minus the constrained loss, so
        that the constraint holds where it is above 0); rows may lack a column.
      rho: the constraint on the clean loss, drawn as a dashed line among the losses.

    Returns:
      A figure of three panels: accuracies, losses, and the multiplier with the slack. A panel
      without a column stays empty.

    Raises:
      ValueError: `history` is empty.
    """
    need("history", history)
    columns = list(dict.fromkeys(name for row in history for name in row))
    figure = Figure(figsize=(11.5, 3.4), layout="constrained")
    accuracies, losses, multiplier = figure.subplots(1, 3)
    _lines(accuracies, history, [c for c in columns if c.endswith("_accuracy")])
    _lines(losses, history, [c for c in columns if c.endswith("_loss")])
    if rho is not None:
        losses.axhline(rho, color="black", linestyle="--", linewidth=1, label=f"rho = {rho:g}")
    _lines(multiplier, history, [c for c in columns if c in ("multiplier", "slack")])
    if "slack" in columns:
        multiplier.axhline(0, color="black", linestyle="--", linewidth=1)
    accuracies.set_ylabel("accuracy (%)")
    losses.set_ylabel("loss")
    multiplier.set_ylabel("multiplier and slack" if "slack" in columns else "multiplier")
    for panel in (accuracies, losses, multiplier):
        panel.set_xlabel("epoch")
        panel.grid(alpha=0.3)
    for panel in (accuracies, losses, multiplier):
        if panel.lines:
            panel.legend()
    return figure


def _lines(panel: Axes, history: Sequence[Mapping[str, float]], columns: Sequence[str]) -> None:
    for column in columns:
        points = [
            (row.get("epoch", i), row[column]) for i, row in enumerate(history) if column in row
        ]
        epochs, values = zip(*points, strict=True)
        panel.plot(epochs, values, label=NAMES.get(column, column))
