"""Clean and PGD accuracy of chosen images after every epoch of training."""

from __future__ import annotations

from collections.abc import Mapping

import jax

from experiments.recipes import Recipe
from experiments.study import EVAL_BATCH, Probe
from jaxrobust import attacks, checks
from jaxrobust.data import Dataset, Split
from jaxrobust.evaluation import evaluate
from jaxrobust.types import Model, Variables

FITTED, TEST = "fitted", "test"
"""How the names of the accuracies of images trained on, and of test images, begin."""


def first(split: Split, count: int | None) -> Split:
    """The first `count` images; all of them for None."""
    return Split(split.x[:count], split.y[:count])


def require_probe(images: int | None) -> None:
    """Raises ValueError for a number of images that cannot be watched."""
    if images is not None:
        checks.at_least("probe_images", images, 1)


def watched(dataset: Dataset, images: int | None) -> Mapping[str, Split]:
    """The first images trained on and tested on, at most so many of each."""
    return {FITTED: first(dataset.train, images), TEST: first(dataset.test, images)}


def probe_of(recipe: Recipe, splits: Mapping[str, Split]) -> Probe:
    """A probe with `<split>_clean_accuracy` and `<split>_pgd_accuracy`, in %, of each split.

    The attack is the table's PGD, the same random starts in every epoch.
    """
    pgd = attacks.pgd(recipe.threat, step_size=recipe.eval_step_size, steps=recipe.eval_steps)

    def probe(model: Model, variables: Variables) -> dict[str, float]:
        metrics = {}
        for name, split in splits.items():
            report = evaluate(
                jax.random.key(0),
                model,
                variables,
                split,
                {"pgd": pgd},
                batch_size=min(EVAL_BATCH, split.size),
                progress=False,
            )
            metrics[f"{name}_clean_accuracy"] = report.clean_accuracy
            metrics[f"{name}_pgd_accuracy"] = report.attacks["pgd"].accuracy
        return metrics

    return probe
