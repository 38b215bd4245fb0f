"""Figures 2 and 4: robustness across step sizes, step numbers and radii."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jax.tree_util import Partial

from jaxrobust import attacks, defenses
from jaxrobust.data import Dataset
from jaxrobust.evaluation import evaluate
from jaxrobust.types import Attack

from ..common.defense_menu import mode, start
from ..common.per_image import per_image
from ..common.recipes import Recipe, resized
from ..common.rows import Method, Outcome
from ..common.runner import EVAL_BATCH, judged_network
from ..common.tables import averaged
from .config import Config
from .measure import Convergence, convergence
from .methods import rows_of


class Steps(NamedTuple):
    """A setting of PGD: the size of its steps in radii, and their number."""

    size: float
    count: int

    @property
    def name(self) -> str:
        """Of its row and of its column."""
        return f"{self.count} steps of {self.size:.3g} eps"

    def attack(self, recipe: Recipe, *, keep: attacks.Keep) -> Attack:
        """PGD by these steps."""
        size = self.size * recipe.epsilon
        begin = start(recipe.start)
        return attacks.pgd(recipe.threat, step_size=size, steps=self.count, start=begin, keep=keep)

    def method(self, recipe: Recipe) -> Method:
        """Training by it."""
        return Method(
            self.name, defenses.adversarial(self.attack(recipe, keep="last"), **mode(recipe))
        )


COUNT, SIZE = 20, 1 / 6
"""Steps where sizes vary, and radii a step where numbers do."""


def settings_of(sizes: Sequence[float], counts: Sequence[int]) -> dict[str, list[Steps]]:
    """The two families of Figure 2."""
    return {
        "size": [Steps(size, COUNT) for size in sizes],
        "number": [Steps(SIZE, count) for count in counts],
    }


def crossed(
    family: Sequence[Steps], outcomes: Sequence[Outcome], recipe: Recipe, dataset: Dataset
) -> list[dict[str, Any]]:
    """Figures 2a and 2b: a row per training setting, a column of accuracy per attack's setting."""
    columns = {one.name: one.attack(recipe, keep="best") for one in family}
    return [
        {"method": one.name, **averaged([_accuracies(o, columns, recipe, dataset) for o in runs])}
        for one in family
        if (runs := [o for o in outcomes if o.method == one.name])
    ]


def _accuracies(
    outcome: Outcome, columns: Mapping[str, Attack], recipe: Recipe, dataset: Dataset
) -> dict[str, float]:
    report = evaluate(
        jax.random.key(outcome.seed),
        judged_network(recipe, dataset),
        outcome.variables,
        dataset.test,
        columns,
        batch_size=EVAL_BATCH,
        num_classes=dataset.num_classes,
        progress=False,
    )
    return {name: attack.accuracy for name, attack in report.attacks.items()}


def endings(
    family: Sequence[Steps], outcomes: Sequence[Outcome], recipe: Recipe, dataset: Dataset
) -> dict[str, Convergence]:
    """Figures 2c to 2f: the points of each training attack on its own network, first seed."""
    model, found = judged_network(recipe, dataset), {}
    for one in family:
        run = next(o for o in outcomes if o.method == one.name)
        measure = Partial(convergence, one.attack(recipe, keep="last"))
        found[one.name] = per_image(measure, model, run.variables, dataset.train)
    return found


def radius_columns(recipe: Recipe, radii: Sequence[float]) -> dict[str, Attack]:
    """PGD-10 by quarters of the radius, a column for each."""
    columns = {}
    for radius in radii:
        own = resized(recipe, radius)
        name = f"eps {radius:.3g}"
        columns[name] = attacks.pgd(own.threat, step_size=radius / 4, steps=10)
    return columns


def tested_at(
    outcomes: Sequence[Outcome], recipe: Recipe, dataset: Dataset, radii: Sequence[float]
) -> list[dict[str, Any]]:
    """Figure 4a: runs trained at the recipe's radius, attacked at others."""
    columns = radius_columns(recipe, radii)
    return [
        {"method": name, **averaged([_accuracies(o, columns, recipe, dataset) for o in runs])}
        for name in dict.fromkeys(o.method for o in outcomes)
        if (runs := [o for o in outcomes if o.method == name])
    ]


def trained_at(
    config: Config, recipe: Recipe, dataset: Dataset, radii: Sequence[float]
) -> list[Method]:
    """The rows of Figure 4b: every method at every radius, its steps along with it."""
    rows = []
    for radius in radii:
        own = resized(recipe, radius)
        names = ("epsilon", "step_size", "eval_step_size")
        changes = {name: getattr(own, name) for name in names}
        rows += [
            dataclasses.replace(method, name=f"{method.name} at {radius:.3g}", changes=changes)
            for method in rows_of(config, own, dataset)
        ]
    return rows


def same_radius(
    outcomes: Sequence[Outcome], recipe: Recipe, dataset: Dataset, radii: Sequence[float]
) -> list[dict[str, Any]]:
    """Figure 4b: every run attacked at the radius it was trained for, a column for each radius."""
    columns = radius_columns(recipe, radii)
    by_method: dict[str, dict[int, dict[str, float]]] = {}
    for outcome in outcomes:
        method, _, radius = outcome.method.rpartition(" at ")
        column = f"eps {radius}"
        own = _accuracies(outcome, {column: columns[column]}, recipe, dataset)
        by_method.setdefault(method, {}).setdefault(outcome.seed, {}).update(own)
    return [
        {"method": method, **averaged(list(seeds.values()))} for method, seeds in by_method.items()
    ]
