"""Every plot. Each function returns a Matplotlib `Figure`; `save_figure` writes it.

Made with Matplotlib's objects alone: no display, no global state, safe in threads.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from jaxrobust.files import PathLike, write_bytes_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from jaxrobust.evaluation.curve import Curve

NAMES = {
    "train_clean_loss": "clean",
    "train_adversarial_loss": "adversarial",
    "val_clean_accuracy": "clean",
    "val_pgd_accuracy": "PGD",
}
"""Legends of the usual columns of a training history; others show their own names."""


def save_figure(figure: Figure, path: PathLike, *, dpi: int = 150) -> Path:
    """Writes a figure atomically, in the format of the path's suffix (png, pdf, svg).

    Args:
      figure: the figure to write.
      path: where to; without a suffix the format is png. Missing folders are made.
      dpi: pixels per inch.

    Returns:
      The path of the file.

    Raises:
      ValueError: a suffix Matplotlib does not know.
      OSError: the file cannot be written.
    """
    data = io.BytesIO()
    figure.savefig(data, format=Path(path).suffix.lstrip(".") or "png", dpi=dpi)
    return write_bytes_atomic(path, data.getvalue())


def principal_components(data: np.ndarray, count: int = 2) -> np.ndarray:
    """Finds the orthonormal directions along which data vary most.

    Args:
      data: `[N, D]`, one point a row; the mean is subtracted here.
      count: the number of directions.

    Returns:
      The directions, one a row, `[count, D]`. Those of larger variance come first; each direction's
      entry of largest magnitude is positive.

    Raises:
      ValueError: `data` is not a matrix, or N or D is below `count`.
    """
    data = np.asarray(data)
    if data.ndim != 2 or min(data.shape) < count:
        raise ValueError(
            f"{count} principal components need data [N, D] with N and D of at least {count}, "
            f"got shape {data.shape}"
        )
    # The triangular factor has the same right singular vectors, without the N rows of the left.
    triangle = np.linalg.qr(data - data.mean(axis=0), mode="r")
    directions = np.linalg.svd(triangle, full_matrices=False)[2][:count]
    largest = np.abs(directions).argmax(axis=1)
    return directions * np.sign(directions[np.arange(count), largest])[:, None]


def perturbation_pca(images: np.ndarray, perturbations: Mapping[str, np.ndarray]) -> Figure:
    """Perturbations projected onto the data's first two principal components (DALE, Figure 1).

    Perturbations are not centered: the origin is the clean image.

    Args:
      images: `[N, D]` or `[N, ...]`, the data whose components span the plane.
      perturbations: by method, `[M, D]` or `[M, ...]`, perturbed minus clean.

    Returns:
      A figure of one panel per method, all with the same equal axes; titles give the standard
      deviation along each component.
    """
    _need("perturbations", perturbations)
    directions = principal_components(_flat(images))
    points = {name: _flat(delta) @ directions.T for name, delta in perturbations.items()}
    reach = 1.05 * max(float(np.abs(p).max()) for p in points.values()) or 1.0
    figure = Figure(figsize=(3.4 * len(points), 3.9), layout="constrained")
    panels = figure.subplots(1, len(points), sharex=True, sharey=True, squeeze=False)[0]
    for panel, (name, p) in zip(panels, points.items(), strict=True):
        panel.scatter(p[:, 0], p[:, 1], s=6, alpha=0.5, linewidths=0)
        first, second = p.std(axis=0)
        panel.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
        panel.set_title(f"{name}\nspread {first:.3g} (1st), {second:.3g} (2nd)", fontsize=10)
        panel.set_xlabel("1st principal component")
    panels[0].set_ylabel("2nd principal component")
    return figure


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
    """
    _need("history", history)
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
    """
    _need("series", series)
    figure = Figure(figsize=(5.6, 4.0), layout="constrained")
    panel = figure.subplots()
    for name, line in series.items():
        panel.errorbar(*line, marker="o", markersize=4, capsize=3, label=name)
    if level is not None:
        panel.axhline(level, color="black", linestyle="--", linewidth=1, label=f"{level:g}")
    if logarithmic:
        panel.set_xscale("log")
    panel.set(xlabel=x, ylabel=y)
    panel.grid(alpha=0.3)
    panel.legend(fontsize=8)
    return figure


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
    """
    _need("families", families)
    figure = Figure(figsize=(5.6, 4.2), layout="constrained")
    panel = figure.subplots()
    for name, points in families.items():
        _need(f"families[{name!r}]", points)
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
    """
    _need("panels", panels)
    columns = min(len(panels), 4)
    rows = -(-len(panels) // columns)
    size = (5.6, 4.0) if len(panels) == 1 else (3.2 * columns, 2.7 * rows + 0.5)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for panel, (title, lines) in zip(grid.flat, panels.items(), strict=False):
        _need(f"panels[{title!r}]", lines)
        for name, line in lines.items():
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


def robustness_curve(curves: Mapping[str, Curve], *, unit: str = "radius") -> Figure:
    """Robust accuracy against radius.

    Lines start at radius 0: with the clean accuracy, unless that radius was attacked too.

    Args:
      curves: the curves by their names in the legend.
      unit: the name of the horizontal axis.

    Returns:
      A figure of one panel with a line per curve, in %, and a band of one standard error on either
      side.
    """
    _need("curves", curves)
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


def examples_grid(
    clean: np.ndarray,
    perturbed: np.ndarray,
    labels: Sequence[int],
    predictions: Sequence[int],
    *,
    names: Sequence[str] | None = None,
) -> Figure:
    """Clean images above perturbed ones above their differences, a column per example.

    Differences are magnified to the full range, gray being none.

    Args:
      clean, perturbed: `[M, H, W]` or `[M, H, W, C]` with C 1 or 3, floats in [0, 1].
      labels: integers `[M]`, the true classes.
      predictions: integers `[M]`, the classes predicted on the perturbed images.
      names: the classes' names (default their numbers).

    Returns:
      A figure of three rows and M columns. The titles give the label, the prediction, and the
      largest absolute entry of the difference before it is magnified.
    """
    _need("clean", clean)
    clean, perturbed = _pictures(clean), _pictures(perturbed)
    if not len(clean) == len(perturbed) == len(labels) == len(predictions):
        raise ValueError(
            f"need as many labels and predictions as images, got {len(clean)} clean images, "
            f"{len(perturbed)} perturbed, {len(labels)} labels, {len(predictions)} predictions"
        )
    name = (lambda k: str(int(k))) if names is None else (lambda k: names[int(k)])
    deltas = [after - before for before, after in zip(clean, perturbed, strict=True)]
    return picture_grid(
        [list(clean), list(perturbed), [magnified(delta) for delta in deltas]],
        titles=[
            [f"label {name(k)}" for k in labels],
            [f"predicted {name(k)}" for k in predictions],
            [f"max {np.abs(delta).max():.3g}" for delta in deltas],
        ],
        rows=("clean", "perturbed", "difference"),
    )


def magnified(delta: np.ndarray) -> np.ndarray:
    """Stretches a difference of images to the full range of a picture.

    Args:
      delta: the difference, of any shape.

    Returns:
      float64 in [0, 1], of the shape of `delta`: .5, a middle gray, is no difference, and the
      largest absolute difference, if any, becomes 0 or 1.
    """
    delta = np.asarray(delta, np.float64)
    return 0.5 + delta / (2 * (np.abs(delta).max() or 1.0))


def picture_grid(
    pictures: Sequence[Sequence[np.ndarray]],
    *,
    titles: Sequence[Sequence[str]],
    rows: Sequence[str],
) -> Figure:
    """Pictures in a grid, a title above each, the rows named at their left.

    Args:
      pictures: rows of `[H, W]` or `[H, W, C]` with C 1 or 3, floats, clipped to [0, 1].
      titles: a title for every picture, in the same rows.
      rows: a name for each row.

    Returns:
      A figure of a panel per picture, in gray for those without three channels.

    Raises:
      ValueError: no pictures, or rows of different lengths.
    """
    _need("pictures", pictures)
    shape = [len(row) for row in pictures]
    if [len(row) for row in titles] != shape or len(rows) != len(shape) or len(set(shape)) > 1:
        raise ValueError(
            f"need rows of equal length, a title per picture and a name per row, got rows of "
            f"{shape} pictures, {[len(row) for row in titles]} titles, and {len(rows)} names"
        )
    _need("pictures[0]", pictures[0])
    figure = Figure(figsize=(1.35 * shape[0] + 0.4, 1.63 * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), shape[0], squeeze=False)
    for line, images, told, name in zip(panels, pictures, titles, rows, strict=True):
        line[0].set_ylabel(name)
        for panel, image, title in zip(line, images, told, strict=True):
            (shown,) = _pictures(np.asarray(image)[None])
            panel.imshow(np.clip(shown, 0, 1), cmap="gray", vmin=0, vmax=1)
            panel.set(xticks=[], yticks=[])
            panel.set_title(title, fontsize=9)
    return figure


def _lines(panel: Axes, history: Sequence[Mapping[str, float]], columns: Sequence[str]) -> None:
    for column in columns:
        points = [
            (row.get("epoch", i), row[column]) for i, row in enumerate(history) if column in row
        ]
        epochs, values = zip(*points, strict=True)
        panel.plot(epochs, values, label=NAMES.get(column, column))


def _flat(images: np.ndarray) -> np.ndarray:
    images = np.asarray(images)
    if not np.issubdtype(images.dtype, np.floating):
        images = images.astype(np.float32)
    return images.reshape(len(images), -1)


def _pictures(images: np.ndarray) -> np.ndarray:
    images = np.asarray(images, np.float64)
    return images[..., 0] if images.ndim == 4 and images.shape[-1] == 1 else images


def _need(name: str, value: Sequence | Mapping | np.ndarray) -> None:
    if not len(value):
        raise ValueError(f"nothing to draw: {name} is empty")
