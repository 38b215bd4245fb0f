"""The rows of the headline: one method each, or one of its points on the trade-off."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

from jaxrobust import checks
from jaxrobust.data import Dataset

from ..common.defense_menu import CONSTRAINED, PLAIN, multiplier
from ..common.recipes import Recipe
from ..common.rows import Method

STEP = 2
"""Forward passes that a gradient in the image costs: there and back."""
UPDATE = 3
"""And one in the parameters, whose way back is twice as long."""


class Row(NamedTuple):
    """A row of the table."""

    method: Method
    family: str
    """The line of the figure that it lies on."""
    label: str
    """The label at its point there."""
    passes: int
    """Arithmetic per training image, in forward passes of the network."""


def _single(name: str) -> Callable[[Recipe, Dataset, Sequence[float], Sequence[float]], list[Row]]:
    passes = STEP + UPDATE
    return lambda r, d, rho, beta: [Row(Method(name, PLAIN[name](r, d)), name, "", passes)]


def _pgd(recipe: Recipe, data: Dataset, rho: Sequence[float], beta: Sequence[float]) -> list[Row]:
    method = Method("pgd", PLAIN["pgd"](recipe, data))
    return [Row(method, "pgd", "", STEP * recipe.steps + UPDATE)]


def _trades(
    recipe: Recipe, data: Dataset, rho: Sequence[float], beta: Sequence[float]
) -> list[Row]:
    made = []
    for weight in beta:
        checks.positive("beta", weight)
        defense = PLAIN["trades"](dataclasses.replace(recipe, beta=weight), data)
        # The attack looks at the clean prediction first.
        passes = 1 + STEP * recipe.steps + 2 * UPDATE
        method = Method(f"trades beta={weight:g}", defense)
        made.append(Row(method, "trades, over beta", f"{weight:g}", passes))
    return made


def _constrained(
    name: str, *, more: int = 0
) -> Callable[[Recipe, Dataset, Sequence[float], Sequence[float]], list[Row]]:
    """Rows of a constrained method over its level; `more` passes than the updates and the steps."""

    def make(
        recipe: Recipe, data: Dataset, rho: Sequence[float], beta: Sequence[float]
    ) -> list[Row]:
        passes = more + STEP * recipe.steps + 2 * UPDATE
        made = []
        for level in rho:
            moving = multiplier(name, recipe, data, level)
            method = Method(
                f"{name} rho={level:g}", CONSTRAINED[name](recipe, level), moving, level
            )
            made.append(Row(method, f"{name}, over rho", f"{level:g}", passes))
        return made

    return make


ROWS: dict[str, Callable[[Recipe, Dataset, Sequence[float], Sequence[float]], list[Row]]] = {
    "n_fgsm": _single("n_fgsm"),
    "fgsm_rs": _single("fgsm_rs"),
    "pgd": _pgd,
    "trades": _trades,
    "dale": _constrained("dale"),
    # As TRADES' attack it looks at the clean prediction first.
    "kl_dale": _constrained("kl_dale", more=1),
}
"""Rows by the name on the command line."""

DEFAULT = ("n_fgsm", "fgsm_rs", "pgd", "trades", "dale")
"""Cheapest first."""


def rows_of(
    names: Sequence[str],
    recipe: Recipe,
    dataset: Dataset,
    *,
    rho: Sequence[float],
    beta: Sequence[float],
) -> list[Row]:
    """The rows called `names`.

    Raises:
      ValueError: an unknown name, or an impossible level or weight.
    """
    made = []
    for name in names:
        checks.choice("row", name, ROWS)
        made += ROWS[name](recipe, dataset, rho, beta)
    return made
