"""Radii at which the released code broke images, beside ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from jaxrobust.files import PathLike

from ..common.reference import load_reference
from .measure import Broken, digits
from .subjects import RELEASED

RADII = "wasserstein_mnist.npz"


def beside(results: Broken, directory: PathLike) -> dict[str, Any] | None:
    """How our radii compare with the released code's on the first images, in original order.

    Both have the smallest radius where the clean image is misclassified. Medians are over the
    images that both broke; `smaller` counts those where our radius is. None where the file does
    not hold the model. Theirs is the radius in force, ours that which holds the point: a step of
    the schedule apart at times.
    """
    held = load_reference(Path(directory) / RADII)
    name = RELEASED.get(results.subject.name)
    if name not in held:
        return None
    theirs = held[name].astype(np.float64)[: results.report.count]
    ours = results.radii[: len(theirs)]
    both = np.isfinite(ours) & np.isfinite(theirs)
    same = np.isclose(ours, theirs, rtol=1e-3)
    return {
        "method": f"{results.subject.name} {results.plans.name}",
        "broken": f"{np.isfinite(ours).sum()}/{len(ours)}",
        "ref. broken": f"{np.isfinite(theirs).sum()}/{len(ours)}",
        "median": digits(np.median(ours[both])) if both.any() else None,
        "ref. median": digits(np.median(theirs[both])) if both.any() else None,
        "smaller": int((~same & (ours < theirs)).sum()),
        "same": int(same.sum()),
        "larger": int((~same & (ours > theirs)).sum()),
    }
