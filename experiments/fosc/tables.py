"""Tables of how FOSC moves over training, and of what it says about strength."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxrobust import figures
from jaxrobust.data import Dataset

from ..common.recipes import Recipe
from ..common.rows import Outcome
from ..common.runner import judged_network
from ..common.tables import averaged
from . import plots
from .measure import (
    BINS,
    PREFIX,
    TOP,
    converged,
    correlation,
    groups,
    shares,
    traces,
)
from .recipes import STAGES

Histograms = Mapping[str, Mapping[int, np.ndarray]]
"""Shares of images by method and epoch."""


def stages(outcomes: Sequence[Outcome]) -> tuple[list[dict[str, Any]], Histograms]:
    """FOSC on the images held out early, in the middle and at the end of training.

    Returns the rows of a table, and the histograms, means over seeds, by method and epoch.
    """
    rows: list[dict[str, Any]] = []
    histograms: dict[str, dict[int, np.ndarray]] = {}
    for method in dict.fromkeys(o.method for o in outcomes):
        histories = [o.history for o in outcomes if o.method == method]
        total = min(len(history) for history in histories)
        histograms[method] = {}
        for epoch in dict.fromkeys(max(1, round(share * total)) for share in STAGES):
            logged = [history[epoch - 1] for history in histories]
            each = [shares(row) for row in logged]
            histograms[method][epoch] = np.mean(each, axis=0)
            near = [
                {
                    **{n: row[PREFIX + n] for n in ("q10", "q50", "q90", "mean")},
                    f"share to {TOP / 5:g} (%)": 100 * values[: BINS // 5].sum(),
                }
                for row, values in zip(logged, each, strict=True)
            ]
            rows.append({"method": method, "epoch": epoch, **averaged(near)})
    return rows, histograms


def strength(
    run: Outcome, settings: Recipe, dataset: Dataset, *, count: int, images: int
) -> tuple[list[dict[str, Any]], str, dict[str, figures.Figure]]:
    """Figure 1 on a run: `count` groups of test images, what they show, and the drawings.

    Args:
      images: how many of the first test images are traced.
    """
    model = judged_network(settings, dataset)
    found = converged(settings, model, run.variables, dataset.test)
    rows = groups(found, count)
    first = dataset.test.first(images)
    along = traces(settings, model, run.variables, first, steps=settings.steps)
    claim = (
        f"seed {run.seed}; correlation of the groups' FOSC with accuracy "
        f"{correlation(rows, 'accuracy'):.2f}, with loss {correlation(rows, 'loss'):.2f}"
    )
    drawn = {
        "figure1a_strength": plots.strength(rows),
        "figure1b_paths": plots.paths(along),
    }
    named = [{"method": f"group {i}", **row} for i, row in enumerate(rows, 1)]
    return named, claim, drawn
