"""The figures of FOSC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from .measure import Convergence


def strength(rows: Sequence[Mapping[str, float]]) -> Figure:
    """Figure 1a: accuracy and loss of groups of images against their FOSC."""
    figure = Figure(figsize=(5.2, 3.8), layout="constrained")
    accuracy = figure.subplots()
    loss = accuracy.twinx()
    x = [row["FOSC"] for row in rows]
    for panel, name, color in ((accuracy, "accuracy", "tab:blue"), (loss, "loss", "tab:red")):
        panel.plot(x, [row[name] for row in rows], "o-", color=color, markersize=4)
        panel.set_ylabel("accuracy (%)" if name == "accuracy" else name, color=color)
    accuracy.set(xlabel="FOSC (mean of a group)", ylim=(-2, 102))
    accuracy.grid(alpha=0.3)
    return figure


def paths(found: Convergence) -> Figure:
    """Figure 1b: FOSC and loss along the attack, a line per image; its fields `[N, steps + 1]`."""
    figure = Figure(figsize=(8.6, 3.6), layout="constrained")
    for panel, name in zip(figure.subplots(1, 2), ("fosc", "loss"), strict=True):
        values = np.asarray(getattr(found, name))
        panel.plot(np.arange(values.shape[1]), values.T, linewidth=0.9, alpha=0.7)
        panel.set(xlabel="step", ylabel="FOSC" if name == "fosc" else name)
        panel.grid(alpha=0.3)
    return figure


def lines(rows: Sequence[Mapping[str, Any]], *, x: str, y: str) -> Figure:
    """Figures 2a, 2b and 4: a line per row over its columns of accuracy."""
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    panel = figure.subplots()
    columns = [n for n in rows[0] if n not in ("method", "seeds") and not n.endswith(" std")]
    for row in rows:
        errors = [row[f"{name} std"] or 0.0 for name in columns]
        values = [row[name] for name in columns]
        panel.errorbar(columns, values, errors, marker="o", capsize=2, label=row["method"])
    panel.set(xlabel=x, ylabel=y)
    panel.set_xticks(range(len(columns)), columns, rotation=20, ha="right", fontsize=9)
    panel.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8)
    return figure


def ends(found: Mapping[str, Convergence], top: float) -> Figure:
    """Figures 2c to 2f: FOSC and loss of training points, a line per setting of PGD."""
    figure = Figure(figsize=(9.4, 3.5), layout="constrained")
    fosc, loss = figure.subplots(1, 2)
    most = max(float(np.percentile(own.loss, 98)) for own in found.values())
    for panel, field, end in ((fosc, "fosc", top), (loss, "loss", most)):
        for name, own in found.items():
            values = np.clip(getattr(own, field), 0, end)
            counts, edges = np.histogram(values, 25, (0, end))
            panel.stairs(100 * counts / len(values), edges, label=name, linewidth=1.4)
        label = "FOSC" if field == "fosc" else field
        panel.set(xlabel=f"{label} (last part: and above)")
        panel.grid(alpha=0.3)
    fosc.set_ylabel("training images (%)")
    loss.legend(fontsize=8)
    return figure


def distributions(shares: Mapping[str, Mapping[int, np.ndarray]], top: float) -> Figure:
    """Figures 3 and 5: the distribution of FOSC, a panel per method and a line per epoch.

    Args:
      shares: by method and epoch, the share of images in equal parts of [0, top], the last of
        which also holds what lies above.
    """
    figure = Figure(figsize=(3.4 * len(shares), 3.4), layout="constrained")
    panels = figure.subplots(1, len(shares), sharex=True, sharey=True, squeeze=False)[0]
    for panel, (name, epochs) in zip(panels, shares.items(), strict=True):
        for epoch, values in epochs.items():
            edges = np.linspace(0, top, len(values) + 1)
            panel.stairs(100 * np.asarray(values), edges, label=f"epoch {epoch}", linewidth=1.4)
        panel.set(title=name, xlabel=f"FOSC (last part: and above {top:g})")
        panel.grid(alpha=0.3)
        panel.legend()
    panels[0].set_ylabel("held-out images (%)")
    return figure
