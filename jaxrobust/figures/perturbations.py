"""Perturbations in the plane of the data's principal components."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from jaxrobust.figures.need import need


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

    Raises:
      ValueError: no method or no perturbation, fewer than two images or pixels, or perturbations
        that have not the images' number of pixels.
    """
    need("perturbations", perturbations)
    directions = principal_components(_flat(images))
    for name, delta in perturbations.items():
        need(f"perturbations[{name!r}]", delta)
        if _flat(delta).shape[1] != directions.shape[1]:
            raise ValueError(
                f"perturbations[{name!r}] must have the images' {directions.shape[1]} pixels, got "
                f"shape {np.shape(delta)}"
            )
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


def _flat(images: np.ndarray) -> np.ndarray:
    images = np.asarray(images)
    if not np.issubdtype(images.dtype, np.floating):
        images = images.astype(np.float32)
    return images.reshape(len(images), -1)
