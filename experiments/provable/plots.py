"""Figures of chapter 3 of Wong's thesis that are drawn nowhere else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import jax
import numpy as np
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import Polygon, Rectangle

from . import estimators, plots
from .measure import Run
from .polytopes import Polytope
from .subjects import Subject
from .tables import UPPER, Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TRUE, OUTER, BOX = "0.45", "tab:green", "tab:red"
CLASSES = ("tab:blue", "tab:orange")


def boundaries(
    maps: Mapping[str, np.ndarray], points: np.ndarray, labels: np.ndarray, radius: float
) -> Figure:
    """Figure 3.3: decisions in the unit square, a panel per network, the points with their balls.

    `maps` are logit differences `[side, side]`, positive for class 1, rows upward.
    """
    figure = Figure(figsize=(4.2 * len(maps), 4.4), layout="constrained")
    panels = figure.subplots(1, len(maps), squeeze=False)[0]
    for panel, (name, values) in zip(panels, maps.items(), strict=True):
        line = np.linspace(0, 1, len(values))
        panel.contourf(line, line, values, levels=[-np.inf, 0, np.inf], colors=CLASSES, alpha=0.3)
        for point, label in zip(points, labels, strict=True):
            color = CLASSES[int(label)]
            corner = point - radius
            panel.add_patch(Rectangle(corner, 2 * radius, 2 * radius, fill=False, color=color))
            panel.plot(*point, "o", color=color, markersize=5, markeredgecolor="black")
        panel.set(title=name, xlim=(0, 1), ylim=(0, 1), aspect="equal")
    return figure


def polytope_grid(
    rows: Mapping[str, Sequence[Polytope]], columns: Sequence[str], *, boxes: bool = False
) -> Figure:
    """Figures 3.4 and 3.5: logits reached over a ball (gray) in their outer bounds (green).

    With `boxes`, the layerwise bounds (red, dashed) of section 3.2.3 too; they set the scale.
    """
    figure = Figure(figsize=(3.3 * len(columns), 3.1 * len(rows) + 0.4), layout="constrained")
    panels = figure.subplots(len(rows), len(columns), squeeze=False)
    for line, (name, polytopes) in zip(panels, rows.items(), strict=True):
        line[0].set_ylabel(f"{name}\nlogit 1")
        for panel, polytope in zip(line, polytopes, strict=True):
            _draw(panel, polytope, boxes)
    for panel, name in zip(panels[0], columns, strict=True):
        panel.set_title(name)
    for panel in panels[-1]:
        panel.set_xlabel("logit 0")
    names = ["reached", "outer bound", *(["layerwise box"] if boxes else [])]
    figure.legend(panels[0, 0].patches[: len(names)], names, loc="outside lower center", ncols=3)
    return figure


def _draw(panel: Axes, polytope: Polytope, boxes: bool) -> None:
    # Each cell of the grid of inputs is drawn where the network takes it.
    o = polytope.outputs
    cells = np.stack([o[:-1, :-1], o[:-1, 1:], o[1:, 1:], o[1:, :-1]], axis=2).reshape(-1, 4, 2)
    panel.add_collection(PolyCollection(cells, facecolors=TRUE, edgecolors=TRUE, linewidths=0.4))
    # The legend's sign of the collection.
    panel.add_patch(Polygon(cells[0], closed=True, color=TRUE))
    panel.add_patch(Polygon(polytope.outer, closed=True, fill=False, color=OUTER, linewidth=1.6))
    seen = polytope.outer
    if boxes:
        low, high = polytope.box
        box = Rectangle(low, *(high - low), fill=False, color=BOX, linestyle="--", linewidth=1.6)
        panel.add_patch(box)
        # Beside the box the others are a dot.
        middle, text = polytope.outer.mean(axis=0), low + 0.2 * (high - low)
        arrow = {"arrowstyle": "->", "color": OUTER}
        panel.annotate("outer bound", middle, text, arrowprops=arrow, color=OUTER)
        seen = polytope.box
    low, high = seen.min(axis=0), seen.max(axis=0)
    margin = 0.08 * (high - low)
    panel.set(xlim=(low[0] - margin[0], high[0] + margin[0]))
    panel.set(ylim=(low[1] - margin[1], high[1] + margin[1]))
    panel.ticklabel_format(useOffset=False)
    panel.locator_params(nbins=4)


def radius_ranks(
    found: Mapping[str, tuple[np.ndarray, np.ndarray]], trained: float | None = None
) -> Figure:
    """Figure 3.7: largest certified radii in increasing order, a line per network.

    `found` holds radii `[N]` and whether the predictions are right; crosses are the wrong ones.
    `trained` is the radius of training, drawn as a dashed line. Radii of 0 lie on the floor.
    """
    figure = Figure(figsize=(6.0, 3.9), layout="constrained")
    panel = figure.subplots()
    floor = min(r[r > 0].min(initial=np.inf) for r, _ in found.values())
    floor = floor / 2 if np.isfinite(floor) else 1e-3
    for name, (radii, right) in found.items():
        order = np.argsort(radii, kind="stable")
        share = 100 * (np.arange(len(radii)) + 0.5) / len(radii)
        heights = np.maximum(radii[order], floor)
        (line,) = panel.plot(share, heights, drawstyle="steps-mid", label=name)
        wrong = ~right[order]
        panel.plot(share[wrong], heights[wrong], "x", color=line.get_color(), markersize=6)
    if trained is not None:
        panel.axhline(trained, color="black", linestyle="--", linewidth=1, label="trained for")
    panel.plot([], [], "x", color="black", label="misclassified")
    panel.set(xlabel="images in increasing order (%)", ylabel="certified radius", yscale="log")
    panel.grid(alpha=0.3)
    panel.legend(fontsize=9)
    return figure


def estimator_histograms(errors: Mapping[str, Mapping[int, np.ndarray]]) -> Figure:
    """Figure 3.19: relative errors of l1 norms, a column per layer, a row per number of samples."""
    counts = list(next(iter(errors.values())))
    size = (3.9 * len(errors), 1.75 * len(counts) + 0.3)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(counts), len(errors), sharex=True, squeeze=False)
    for column, (name, by_count) in zip(panels.T, errors.items(), strict=True):
        column[0].set_title(f"{name} layer")
        column[-1].set_xlabel("relative error")
        for panel, (count, values) in zip(column, by_count.items(), strict=True):
            panel.hist(np.clip(values, -1, 2), bins=np.linspace(-1, 2, 61), density=True)
            panel.axvline(0, color="black", linewidth=1)
            told = f"k = {count}\nmean {values.mean():.2f}\nstd {values.std():.2f}"
            panel.text(0.97, 0.93, told, ha="right", va="top", transform=panel.transAxes)
            panel.set_yticks([])
    return figure


def costs(rows: Sequence[Mapping[str, float]]) -> Figure:
    """Figure 3.20: milliseconds and megabytes of a bound against the number of hidden units."""
    figure = Figure(figsize=(8.6, 3.5), layout="constrained")
    units = [row["hidden units"] for row in rows]
    kinds = (("ms", "milliseconds per image"), ("MB", "memory (MB)"))
    for panel, (unit, told) in zip(figure.subplots(1, 2), kinds, strict=True):
        for name in ("exact", "projected"):
            panel.plot(units, [row[f"{name} {unit}"] for row in rows], marker="o", label=name)
        panel.set(xlabel="hidden units", ylabel=told, xscale="log", yscale="log")
        panel.set_xticks(units, [str(n) for n in units])
        panel.minorticks_off()
        panel.yaxis.set_major_formatter("{x:g}")
        panel.grid(alpha=0.3)
        panel.legend()
    return figure


def draw_radii(run: Run, subjects: Sequence[Subject], results: Results) -> None:
    """Figure 3.7, with the first seed and radius of every method."""
    shown = {s.row.method: s for s in reversed(subjects)}
    upper = UPPER * run.setting.epsilons[0]
    found = {m: run.radii(shown[m], upper) for m in run.setting.methods}
    results.figures["figure7_radii"] = plots.radius_ranks(found, run.setting.epsilons[0])


def draw_estimators(subjects: Sequence[Subject], results: Results) -> None:
    """Figure 3.19, on the first network with convolutions that was trained on bounds."""
    kernels = [
        (s.row.method, s.variables.params["conv2"]["kernel"])
        for s in subjects
        if s.row.method != "standard" and "conv2" in s.variables.params
    ]
    if not kernels:
        return
    method, kernel = kernels[0]
    layers = {
        "random": estimators.untrained(jax.random.key(0), kernel),
        f"trained ({method})": kernel,
    }
    errors = {n: estimators.relative_errors(jax.random.key(1), k) for n, k in layers.items()}
    results.figures["figure19_estimators"] = plots.estimator_histograms(errors)
