"""The study's figures."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import evaluation, figures
from jaxrobust.data import Split, to_inputs
from jaxrobust.evaluation import Curve, Report
from jaxrobust.types import Attack

from ..common.attack_menu import make_threat, menu_item
from ..common.trained import Trained
from .config import Config


def draw_curve(
    config: Config, radii: list[float], trained: Trained, examples: Split, **options: Any
) -> Curve:
    """Robust accuracy at the radii; an attack that seeks the least norm runs once for all."""
    name, norm = config.curve_attack, config.threat
    item = menu_item(name, norm)
    task = (jax.random.key(config.seed), trained.model, trained.variables, examples)
    if item.least_norm:
        # Its search does not depend on the radius.
        attack = item.make(make_threat(norm, 1.0), config.budget)
        report = evaluation.evaluate(*task, {name: attack}, **options)
        return evaluation.curve_of_norms(report, name, radii)

    def at_radius(radius: float) -> Attack:
        return item.make(make_threat(norm, radius), config.budget)

    return evaluation.curve(*task, at_radius, radii, **options)


def draw_grid(
    report: Report, trained: Trained, examples: Split, count: int
) -> figures.Figure | None:
    """The first images broken by the attack that broke the most; None where nothing broke."""
    broken = {
        name: np.flatnonzero(report.clean & a.inside & ~(a.margin < 0) & np.isfinite(a.norm))
        for name, a in report.attacks.items()
    }
    strongest = max(broken, key=lambda name: broken[name].size, default=None)
    if strongest is None or not broken[strongest].size:
        return None
    rows = broken[strongest][:count]
    points = jnp.asarray(report.attacks[strongest].examples[rows])
    logits, _ = trained.model.apply(trained.variables, points, train=False, key=None, axes=())
    clean = np.asarray(to_inputs(examples.x[rows]))
    return figures.examples_grid(
        clean, np.asarray(points), examples.y[rows], np.asarray(logits.argmax(axis=-1))
    )
