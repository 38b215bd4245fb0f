"""Rows of a study: how they train, how they are judged, what came of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from jaxrobust import training
from jaxrobust.data import Dataset
from jaxrobust.defenses import Defense
from jaxrobust.evaluation import Report
from jaxrobust.lagrangian import Multiplier
from jaxrobust.types import Attack, Variables

from .recipes import Recipe

BEST_BY = "val_pgd_accuracy"
"""Metric of the best epoch: robust accuracy on the images held out."""


@dataclasses.dataclass(frozen=True)
class Method:
    """A row of a table: a training method with its hyperparameters."""

    name: str
    """Unique; names the run folder and the row."""
    defense: Defense
    multiplier: Multiplier | None = None
    rho: float | None = None
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Settings of the recipe that this row has for itself."""
    augment: training.Augment | None = None
    """After the recipe's crops and flips."""
    stop: training.Stop | None = None
    """When to end its runs early."""
    dataset: Dataset | None = None
    """Trained on instead of the study's, such as one with images added."""

    def recipe(self, shared: Recipe) -> Recipe:
        """The shared recipe with the row's own settings."""
        return dataclasses.replace(shared, **self.changes)


@dataclasses.dataclass(frozen=True)
class Judge:
    """How every row of a table is evaluated."""

    attacks: Mapping[str, Attack]
    """A column each, over the whole test split."""
    suite: Mapping[str, Attack] = dataclasses.field(default_factory=dict)
    """AutoAttack, for a column of its own over the first `suite_images` test images."""
    suite_images: int = 0
    selects: tuple[str, ...] = ("last",)
    """Epochs to evaluate: "last", "best" by robust accuracy on the images held out, or both."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One trained and evaluated run."""

    method: str
    seed: int
    reports: Mapping[str, Report]
    """Reports by epoch evaluated."""
    suites: Mapping[str, Report]
    """The same under AutoAttack; empty where it was not asked for."""
    history: Sequence[Mapping[str, Any]]
    trained: Mapping[str, Variables]
    """Trained variables by epoch evaluated."""
    rho: float | None = None
    """Level of the constrained loss."""

    @property
    def report(self) -> Report:
        """The report of the first epoch evaluated."""
        return next(iter(self.reports.values()))

    @property
    def variables(self) -> Variables:
        """The variables of the first epoch evaluated."""
        return next(iter(self.trained.values()))

    @property
    def accuracies(self) -> dict[str, float]:
        """Clean and robust accuracies in %, by column."""
        columns = {}
        for select, report in self.reports.items():
            found = {"Clean": report.clean_accuracy}
            found |= {name: attack.accuracy for name, attack in report.attacks.items()}
            if select in self.suites:
                suite = self.suites[select]
                found[f"AutoAttack ({suite.count})"] = suite.worst_case_accuracy
            several = len(self.reports) > 1
            columns |= {f"{name} {select}" if several else name: v for name, v in found.items()}
        return columns
