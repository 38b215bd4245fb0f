"""Lines with errors: as bars in one panel, as bands over epochs in several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from jaxrobust.figures.need import need


class Series(NamedTuple):
    """A line of a figure."""

    x: Sequence[float]
    y: Sequence[float]
    errors: Sequence[float] | None = None
    """Half the length of each point's error bar."""


def series_lines(
    series: Mapping[str, Series],
    *,
    x: str,
    y: str = "robust accuracy (%)",
    level: float | None = None,
    logarithmic: bool = False,
) -> Figure:
    """Draws lines with error bars.

    Args:
      series: the lines by their names in the legend.
      x, y: the axes' names.
      level: a value of y, drawn as a dashed line.
      logarithmic: whether the horizontal axis is logarithmic.

    Returns:
      A figure of one panel with a line for each entry.

    Raises:
      ValueError: `series` is empty, or a line has not as many `y` or errors as `x`.
    """
    need("series", series)
    figure = Figure(figsize=(5.6, 4.0), layout="constrained")
    panel = figure.subplots()
    for name, line in series.items():
        _require_points(name, line)
        panel.errorbar(*line, marker="o", markersize=4, capsize=3, label=name)
    if level is not None:
        panel.axhline(level, color="black", linestyle="--", linewidth=1, label=f"{level:g}")
    if logarithmic:
        panel.set_xscale("log")
    panel.set(xlabel=x, ylabel=y)
    panel.grid(alpha=0.3)
    panel.legend(fontsize=8)
    return figure


def learning_curves(
    panels: Mapping[str, Mapping[str, Series]],
    *,
    y: str = "accuracy (%)",
    marks: Sequence[float] = (),
) -> Figure:
    """Lines over the epochs with a band of their errors.

    Args:
      panels: by the title of a panel, its lines by their names in the legend; an error is half the
        height of the band.
      y: the name of the vertical axes.
      marks: epochs at which a dotted vertical line is drawn, such as those of the rate's decays.

    Returns:
      A figure of a panel for each title, at most four side by side, axes shared. The legend is in
      the first one.

    Raises:
      ValueError: no panel or one without lines, or a line that has not as many `y` or errors as
        `x`.
    """
    need("panels", panels)
    columns = min(len(panels), 4)
    rows = -(-len(panels) // columns)
    size = (5.6, 4.0) if len(panels) == 1 else (3.2 * columns, 2.7 * rows + 0.5)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for panel, (title, lines) in zip(grid.flat, panels.items(), strict=False):
        need(f"panels[{title!r}]", lines)
        for name, line in lines.items():
            _require_points(name, line)
            (drawn,) = panel.plot(line.x, line.y, label=name)
            if line.errors is not None:
                values, errors = np.asarray(line.y), np.asarray(line.errors)
                panel.fill_between(
                    line.x, values - errors, values + errors, color=drawn.get_color(), alpha=0.15
                )
        for epoch in marks:
            panel.axvline(epoch, color="black", linestyle=":", linewidth=1)
        panel.set_title(title, fontsize=10)
        panel.grid(alpha=0.3)
    for spare in grid.flat[len(panels) :]:
        spare.set_visible(False)
    figure.supxlabel("epoch", fontsize=10)
    figure.supylabel(y, fontsize=10)
    grid[0, 0].legend(fontsize=8)
    return figure


def _require_points(name: str, line: Series) -> None:
    counts = [len(part) for part in line if part is not None]
    if len(set(counts)) > 1:
        raise ValueError(
            f"line {name!r} needs as many y, and errors where it has them, as x, got {counts}"
        )
