"""The toy problem and its polytopes: figures 3.3 to 3.5 and the boxes of section 3.2.3."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxrobust.figures import Figure

from . import plots, tables
from .polytopes import polytopes
from .toy import (
    EPSILON,
    POINTS,
    SIZES,
    SPACING,
    Fitted,
    decision,
    fit,
    random_network,
    sample_points,
)

RADII = (0.05, 0.1, 0.25)
NETWORKS = 3
"""Random ones, a column of figure 3.4 each."""
STEPS = 1000
"""Steps of training, at most."""
SIDE = 201
"""Side of the grid on which decisions are drawn."""


class Planar(NamedTuple):
    """Tables and figures by the stem of their files."""

    tables: Mapping[str, list[dict[str, Any]]]
    figures: Mapping[str, Figure]
    title: str


def planar(seed: int, sizes: Sequence[int] = SIZES) -> Planar:
    """Trains a standard and a robust network on random points, and draws what they do."""
    points = sample_points(seed)
    labels = np.random.default_rng(seed + 1).integers(0, 2, len(points))
    key = jax.random.key(seed)
    fitted = {
        name: fit(key, points, labels, EPSILON, robust=robust, steps=STEPS, sizes=sizes)
        for name, robust in (("standard", False), ("robust", True))
    }
    center, radii = np.full(2, 0.5, np.float32), np.float32(RADII)
    random = {
        f"random {i}": polytopes(random_network(jax.random.key(seed + i), sizes), center, radii)
        for i in range(NETWORKS)
    }
    own = np.float32([EPSILON])
    trained = {name: polytopes(f.params, points[0], own) for name, f in fitted.items()}
    by_radius = {f"eps {r:g}": [random[n][i] for n in random] for i, r in enumerate(RADII)}
    drawn = {
        "figure3_boundaries": plots.boundaries(
            {f"{name} training": decision(f.params, SIDE) for name, f in fitted.items()},
            points,
            labels,
            EPSILON,
        ),
        "figure4_polytopes": plots.polytope_grid(by_radius, list(random)),
        "figure5_trained": plots.polytope_grid(
            {f"eps {EPSILON:g}": [p[0] for p in trained.values()]},
            [f"{name} training" for name in trained],
        ),
        "figure_layerwise": plots.polytope_grid(
            {f"eps {RADII[0]:g}": by_radius[f"eps {RADII[0]:g}"]}, list(random), boxes=True
        ),
    }
    made = {
        "toy": [_row(name, f) for name, f in fitted.items()],
        "polytopes": [
            *tables.box_rows(random, RADII),
            *tables.box_rows(trained, [EPSILON]),
        ],
    }
    title = (
        f"{POINTS} random points in the plane at least {SPACING:g} apart, eps {EPSILON:g}, "
        f"{'-'.join(map(str, sizes))} networks, seed {seed}; errors in %"
    )
    return Planar(made, drawn, title)


def _row(name: str, fitted: Fitted) -> dict[str, Any]:
    return {
        "method": name,
        "Adam steps": fitted.steps,
        "Clean": fitted.error,
        "Wong-Kolter": fitted.robust_error,
    }
