"""Images in a grid: clean, perturbed, and their magnified differences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from jaxrobust.figures.need import need


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

    Raises:
      ValueError: no images, images of two shapes, or not as many labels and predictions as images.
    """
    need("clean", clean)
    clean, perturbed = _pictures(clean), _pictures(perturbed)
    if not len(clean) == len(perturbed) == len(labels) == len(predictions):
        raise ValueError(
            f"need as many labels and predictions as images, got {len(clean)} clean images, "
            f"{len(perturbed)} perturbed, {len(labels)} labels, {len(predictions)} predictions"
        )
    if clean.shape != perturbed.shape:
        raise ValueError(
            f"clean and perturbed images must have one shape, got {clean.shape} and "
            f"{perturbed.shape}"
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
      ValueError: no pictures, rows of different lengths, or not a title for every picture and a
        name for every row.
    """
    need("pictures", pictures)
    shape = [len(row) for row in pictures]
    if [len(row) for row in titles] != shape or len(rows) != len(shape) or len(set(shape)) > 1:
        raise ValueError(
            f"need rows of equal length, a title per picture and a name per row, got rows of "
            f"{shape} pictures, {[len(row) for row in titles]} titles, and {len(rows)} names"
        )
    need("pictures[0]", pictures[0])
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


def _pictures(images: np.ndarray) -> np.ndarray:
    images = np.asarray(images, np.float64)
    return images[..., 0] if images.ndim == 4 and images.shape[-1] == 1 else images
