"""The figure of TRADES' sweep."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure


def trade_off(
    natural: Mapping[str, np.ndarray], robust: Mapping[str, np.ndarray], *, unit: str
) -> Figure:
    """Robust against natural accuracy: a point per setting, means with standard deviations.

    Args:
      natural, robust: accuracies in % of a setting's runs, by the setting's name.
      unit: what the names are.
    """
    figure = Figure(figsize=(5.2, 3.9), layout="constrained")
    panel = figure.subplots()
    means = np.asarray([(natural[name].mean(), robust[name].mean()) for name in natural])
    panel.plot(*means.T, color="0.7", linewidth=1, zorder=1)
    for name, (x, y) in zip(natural, means, strict=True):
        spread = [v.std(ddof=1) if len(v) > 1 else 0.0 for v in (natural[name], robust[name])]
        panel.errorbar(x, y, xerr=spread[0], yerr=spread[1], fmt="o", markersize=5, capsize=2)
        panel.annotate(name, (x, y), xytext=(5, 5), textcoords="offset points", fontsize=9)
    panel.set(xlabel="natural accuracy (%)", ylabel="robust accuracy (%)", title=f"by {unit}")
    panel.grid(alpha=0.3)
    return figure
