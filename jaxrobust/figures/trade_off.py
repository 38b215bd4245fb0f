"""Points in the plane of two accuracies."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from jaxrobust.figures.need import need

Runs = np.ndarray
"""A figure of each of several runs, `[R]`."""


def trade_off(families: Mapping[str, Mapping[str, tuple[Runs, Runs]]], *, x: str, y: str) -> Figure:
    """Points in the plane of two accuracies, those of a family joined in their order.

    Args:
      families: by its name in the legend, the label of a point -> what its runs are along `x` and
        along `y`, each `[R]`. Their mean is drawn, with the standard deviation where there are
        several.
      x, y: the axes' names.

    Returns:
      A figure of one panel with a line for each family, its points labeled.

    Raises:
      ValueError: no family, one without points, or a point without runs.
    """
    need("families", families)
    figure = Figure(figsize=(5.6, 4.2), layout="constrained")
    panel = figure.subplots()
    for name, points in families.items():
        need(f"families[{name!r}]", points)
        for label, point in points.items():
            for runs in point:
                need(f"families[{name!r}][{label!r}]", runs)
        means = np.asarray([[np.mean(runs) for runs in point] for point in points.values()])
        errors = np.asarray(
            [
                [np.std(runs, ddof=1) if len(runs) > 1 else 0.0 for runs in point]
                for point in points.values()
            ]
        )
        panel.errorbar(
            *means.T, xerr=errors[:, 0], yerr=errors[:, 1], label=name,
            marker="o", markersize=5, linewidth=1, elinewidth=0.7, capsize=2,
        )  # fmt: skip
        for label, mean in zip(points, means, strict=True):
            panel.annotate(label, mean, xytext=(5, 5), textcoords="offset points", fontsize=8)
    panel.margins(0.1)
    panel.set(xlabel=x, ylabel=y)
    panel.grid(alpha=0.3)
    panel.legend(fontsize=8)
    return figure
