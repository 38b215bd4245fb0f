"""TRADES' Figure 1: decision boundaries in the plane, of natural training and of TRADES."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from jaxrobust import attacks, data, defenses, evaluation, training
from jaxrobust.data import Dataset
from jaxrobust.models import build, from_linen
from jaxrobust.threats import Linf

COUNT = 60
RADIUS = 0.06
EPOCHS = 400
STEPS = 10
BETA = 6.0
SIDE = 151
COLORS = ("tab:blue", "tab:orange")


class Learned(NamedTuple):
    """What a method made of the points."""

    natural: float
    """% of the training points misclassified."""
    robust: float
    """% of those that PGD moves over the boundary or that were misclassified."""
    scores: np.ndarray
    """Logit differences on a grid `[SIDE, SIDE]` of the unit square, rows upward."""


def points(seed: int, *, count: int = COUNT, radius: float = RADIUS) -> Dataset:
    """Points of the unit square on both sides of a sine, whose balls a classifier can part.

    Points of two classes are more than 2.2 radii apart in linf; drawn in turn.
    """
    rng = np.random.default_rng(seed)
    kept: list[np.ndarray] = []
    labels: list[int] = []
    while len(kept) < count:
        point = rng.uniform(size=2).astype(np.float32)
        label = int(point[1] > 0.5 + 0.25 * np.sin(2 * np.pi * point[0]))
        others = [p for p, own in zip(kept, labels, strict=True) if own != label]
        if all(np.abs(point - p).max() > 2.2 * radius for p in others):
            kept.append(point)
            labels.append(label)
    return data.from_arrays(np.stack(kept), np.asarray(labels, np.int32), name="plane")


def learned(
    folder: Path, seed: int, dataset: Dataset, *, epochs: int = EPOCHS
) -> dict[str, Learned]:
    """Both methods, from the same weights; runs resume."""
    ball = Linf(RADIUS, -1.0, 2.0)
    climb = {"step_size": RADIUS / 4, "steps": STEPS}
    attack = defenses.trades_attack(ball, **climb)
    methods = {"natural": defenses.erm(), "TRADES": defenses.trades(attack, beta=BETA)}
    model = from_linen(build("mlp", 2, {"widths": (64, 64)}))
    line = np.linspace(0, 1, SIDE, dtype=np.float32)
    grid = np.stack(np.meshgrid(line, line), axis=-1)
    found = {}
    size = dataset.train.size - dataset.train.size % jax.device_count()
    for name, defense in methods.items():
        variables = training.fit(
            seed,
            model,
            defense,
            dataset,
            training.optimizer("adam", 5e-3),
            epochs=epochs,
            batch_size=size,
            run=folder / f"{name}-seed{seed}",
            config={"method": name, "radius": RADIUS},
            progress=False,
        ).state.variables
        report = evaluation.evaluate(
            jax.random.key(seed),
            model,
            variables,
            dataset.train,
            {"pgd": attacks.restarts(attacks.pgd(ball, **climb), 5)},
            batch_size=dataset.train.size,
            progress=False,
        )
        logits = jax.jit(jax.vmap(jax.vmap(model.logits_fn(variables))))(jnp.asarray(grid))
        robust = report.attacks["pgd"].accuracy
        scores = np.asarray(logits[..., 1] - logits[..., 0])
        found[name] = Learned(100 - report.clean_accuracy, 100 - robust, scores)
    return found


def rows(found: Mapping[str, Learned]) -> list[dict[str, Any]]:
    """Errors in % on the points trained on."""
    return [
        {"method": name, "natural error": one.natural, "robust error": one.robust}
        for name, one in found.items()
    ]


def drawn(found: Mapping[str, Learned], dataset: Dataset) -> Figure:
    """A panel per method, the natural boundary dotted in both, the points with their balls."""
    figure = Figure(figsize=(4.2 * len(found), 4.3), layout="constrained")
    panels = figure.subplots(1, len(found), squeeze=False)[0]
    line = np.linspace(0, 1, SIDE)
    natural = next(iter(found.values()))
    for panel, (name, one) in zip(panels, found.items(), strict=True):
        panel.contourf(line, line, one.scores, [-np.inf, 0, np.inf], colors=COLORS, alpha=0.25)
        panel.contour(line, line, one.scores, [0], colors="black", linewidths=1.4)
        panel.contour(
            line, line, natural.scores, [0], colors="tab:red", linestyles=":", linewidths=1.8
        )
        for point, label in zip(*dataset.train, strict=True):
            color = COLORS[int(label)]
            box = Rectangle(point - RADIUS, 2 * RADIUS, 2 * RADIUS, fill=False, color=color)
            panel.add_patch(box)
            panel.plot(*point, "o", color=color, markersize=4, markeredgecolor="black")
        errors = f"natural error {one.natural:.0f} %, robust {one.robust:.0f} %"
        panel.set(title=f"{name}: {errors}", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    return figure
