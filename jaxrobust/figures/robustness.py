"""Robust accuracy against radius."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from jaxrobust.figures.need import need

if TYPE_CHECKING:
    from jaxrobust.evaluation.curve import Curve


def robustness_curve(curves: Mapping[str, Curve], *, unit: str = "radius") -> Figure:
    """Robust accuracy against radius.

    Lines start at radius 0: with the clean accuracy, unless that radius was attacked too.

    Args:
      curves: the curves by their names in the legend.
      unit: the name of the horizontal axis.

    Returns:
      A figure of one panel with a line per curve, in %, and a band of one standard error on either
      side.

    Raises:
      ValueError: `curves` is empty.
    """
    need("curves", curves)
    figure = Figure(figsize=(5.2, 3.8), layout="constrained")
    panel = figure.subplots()
    for name, curve in curves.items():
        # A radius of 0 that was attacked stands for itself; else the clean accuracy does.
        extra = [] if curve.radii[0] == 0 else [0.0]
        radii = np.concatenate([extra, curve.radii])
        values = np.concatenate([[100.0 * curve.clean.mean()] * len(extra), curve.accuracies])
        errors = np.sqrt(values * (100.0 - values) / curve.clean.size)
        (line,) = panel.plot(radii, values, marker="o", markersize=4, label=name)
        low, high = values - errors, values + errors
        panel.fill_between(radii, low, high, color=line.get_color(), alpha=0.2)
    panel.set(xlabel=unit, ylabel="robust accuracy (%)", ylim=(0, 102))
    panel.grid(alpha=0.3)
    panel.legend()
    return figure
