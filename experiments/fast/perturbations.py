"""Where a PGD adversary ends in the ball: Figure 4.3.

Around a network that overfitted catastrophically its perturbations lie between the image and the
edge of the ball; around a robust one most lie at the edge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxrobust import attacks, losses
from jaxrobust.data import Dataset, to_inputs
from jaxrobust.evaluation import evaluate
from jaxrobust.figures import Figure

from ..common.recipes import Recipe
from ..common.rows import Outcome
from ..common.runner import EVAL_BATCH, judged_network

EDGE = 0.95
"""Share of the radius from which a coordinate counts as at the edge."""


def perturbations(outcome: Outcome, settings: Recipe, dataset: Dataset) -> np.ndarray:
    """Every coordinate of PGD's last points on the test images, in radii and flat.

    Coordinates that the pixel box may stop short of the edge are left out, where there are others.
    """
    threat = settings.threat
    attack = attacks.pgd(
        threat,
        step_size=settings.eval_step_size,
        steps=settings.eval_steps,
        loss=losses.cross_entropy,
        keep="last",
    )
    report = evaluate(
        jax.random.key(outcome.seed),
        judged_network(settings, dataset),
        outcome.variables,
        dataset.test,
        {"pgd": attack.bare},
        batch_size=EVAL_BATCH,
        num_classes=dataset.num_classes,
        # Drawn by the first process alone: no other may be waited for.
        devices=jax.local_devices(),
        keep_examples=True,
        progress=False,
    )
    x, radius = np.asarray(to_inputs(dataset.test.x)), float(settings.epsilon)
    moves = (report.attacks["pgd"].examples - x) / radius
    free = (x >= radius) & (x <= 1 - radius)
    return moves[free] if free.any() else moves.ravel()


def edge_share(found: np.ndarray) -> float:
    """% of the coordinates at the edge of the ball."""
    return 100 * float(np.mean(np.abs(found) >= EDGE))


def add_edges(
    rows: Sequence[dict[str, Any]],
    outcomes: Mapping[str, Sequence[Outcome]],
    settings: Recipe,
    dataset: Dataset,
) -> dict[str, np.ndarray]:
    """Adds to each row its share at the edge, over all seeds; returns the first seeds' moves."""
    shown = {}
    for row in rows:
        runs = outcomes[row["method"]]
        found = [perturbations(outcome, settings, dataset) for outcome in runs]
        row["at the edge"] = float(np.mean([edge_share(moves) for moves in found]))
        shown[row["method"]] = found[0]
    return shown


def histogram(found: Mapping[str, np.ndarray]) -> Figure:
    """Figure 4.3: how far coordinates are moved, a panel per network."""
    figure = Figure(figsize=(2.9 * len(found), 2.9), layout="constrained")
    panels = figure.subplots(1, len(found), sharex=True, sharey=True, squeeze=False)[0]
    for panel, (name, moves) in zip(panels, found.items(), strict=True):
        weights = np.full(len(moves), 100 / len(moves))
        panel.hist(moves, bins=np.linspace(-1, 1, 41), weights=weights)
        panel.set_title(name, fontsize=9)
        panel.set_xlabel("perturbation (radii)")
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("coordinates (%)")
    return figure
