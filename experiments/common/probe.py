"""Clean and PGD accuracy of chosen images after every epoch of training."""

from __future__ import annotations

from collections.abc import Mapping

from jaxrobust import attacks, checks
from jaxrobust.data import Dataset, Split
from jaxrobust.types import Model, Variables

from .recipes import Recipe
from .runner import Probe, clean_and_robust

FITTED, TEST = "fitted", "test"
"""How the names of the accuracies of images trained on, and of test images, begin."""


def require_probe(images: int | None) -> None:
    """Raises ValueError for a number of images that cannot be watched."""
    if images is not None:
        checks.at_least("probe_images", images, 1)


def watched(dataset: Dataset, images: int | None) -> Mapping[str, Split]:
    """The first images trained on and tested on, at most so many of each."""
    return {FITTED: dataset.train.first(images), TEST: dataset.test.first(images)}


def probe_of(recipe: Recipe, splits: Mapping[str, Split]) -> Probe:
    """A probe with `<split>_clean_accuracy` and `<split>_pgd_accuracy`, in %, of each split.

    The attack is the table's PGD, the same random starts in every epoch.
    """
    pgd = attacks.pgd(recipe.threat, step_size=recipe.eval_step_size, steps=recipe.eval_steps)

    def probe(model: Model, variables: Variables) -> dict[str, float]:
        metrics = {}
        for name, split in splits.items():
            clean, robust = clean_and_robust(model, variables, split, pgd)
            metrics[f"{name}_clean_accuracy"] = clean
            metrics[f"{name}_pgd_accuracy"] = robust
        return metrics

    return probe
