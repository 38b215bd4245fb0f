"""The study's figures."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np

from jaxrobust import figures
from jaxrobust.data import Dataset, Split
from jaxrobust.evaluation import evaluate

from ..common.recipes import Recipe
from ..common.rows import Outcome
from ..common.runner import judged_network
from .methods import sampling_attacks

PCA_IMAGES = 10_000
"""Training images whose principal components span Figure 1."""


def figure_1(
    settings: Recipe, dataset: Dataset, outcomes: Sequence[Outcome], *, count: int = 500
) -> figures.Figure | None:
    """Training perturbations of FGSM, PGD and DALE, each on its own model; None without runs."""
    model = judged_network(settings, dataset)
    x = dataset.train.x[:count].astype(np.float32) / 255
    shifts = {}
    for name, attack in sampling_attacks(settings).items():
        own = next((o for o in outcomes if o.method.split()[0] == name), None)
        if own is not None:
            report = evaluate(
                jax.random.key(own.seed),
                model,
                own.variables,
                Split(x, dataset.train.y[:count]),
                {name: attack},
                batch_size=min(count, len(x)),
                # Drawn by the first process alone: no other may be waited for.
                devices=jax.local_devices(),
                keep_examples=True,
                progress=False,
            )
            shifts[own.method] = report.attacks[name].examples - x
    reference = dataset.train.x[:PCA_IMAGES].astype(np.float32) / 255
    return figures.perturbation_pca(reference, shifts) if shifts else None


FIGURE_2 = (
    "epoch",
    "val_clean_accuracy",
    "val_pgd_accuracy",
    "train_clean_loss",
    "train_adversarial_loss",
    "multiplier",
)


def figure_2(outcome: Outcome, rho: float) -> figures.Figure:
    """Held-out accuracies, training losses, multiplier and slack of a run over its epochs."""
    history = [
        {n: row[n] for n in FIGURE_2 if n in row} | {"slack": -row["train_violation"]}
        for row in outcome.history
    ]
    return figures.training_curves(history, rho=rho)
