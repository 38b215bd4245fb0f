"""Regularizers by name, with the numbers that each is tried at (Wong's thesis, section 4.4)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from jaxrobust import checks
from jaxrobust.data import Dataset

from ..common.recipes import Recipe
from ..common.rows import Method
from . import methods

CUTOUT = 14 / 32
"""Side of the thesis's best square, as a share of the image's."""


@dataclasses.dataclass(frozen=True)
class Grid:
    """The hyperparameters tried, a row each; None leaves them to the preset."""

    l1: tuple[float, ...] | None = None
    """Weights of the penalty on absolute weights."""
    l2: tuple[float, ...] | None = None
    """Weight decays."""
    cutout: tuple[int, ...] | None = None
    """Sides of the black square, in pixels."""
    mixup: tuple[float, ...] | None = None
    """Parameters of the Beta distribution."""


THESIS = Grid(
    l1=(5e-6, 5e-5, 5e-4, 5e-3),
    l2=(5e-4, 5e-3, 1e-2, 5e-2, 5e-1, 5.0),
    cutout=tuple(range(2, 21, 2)),
    mixup=(0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0),
)


def grid(given: Grid, preset: str, dataset: Dataset) -> Grid:
    """The hyperparameters given; else the thesis's, of which the quick preset keeps few."""
    few = Grid((5e-5, 5e-4), (5e-3, 5e-2), (round(CUTOUT * dataset.shape[0]),), (1.4,))
    default = dataclasses.asdict(THESIS if preset == "paper" else few)
    own = {name: v for name, v in dataclasses.asdict(given).items() if v is not None}
    return Grid(**(default | own))


REGULARIZERS: Mapping[str, Callable[[Recipe, Dataset, Grid], list[Method]]] = {
    "pgd": lambda r, d, g: [Method("pgd", methods.by_pgd(r, d))],
    "l1": lambda r, d, g: methods.penalties("l1", g.l1, methods.by_pgd(r, d)),
    "l2": lambda r, d, g: methods.penalties("l2", g.l2, methods.by_pgd(r, d)),
    "cutout": lambda r, d, g: methods.cutouts(g.cutout, d, methods.by_pgd(r, d)),
    "mixup": lambda r, d, g: methods.mixups(g.mixup, r),
    "fgsm_rs": lambda r, d, g: [Method("fgsm_rs", methods.fgsm_rs(r))],
    "trades": lambda r, d, g: [Method("trades", methods.by_trades(r, d))],
}
"""Rows by the name of their family; fgsm_rs and trades are the other schemes of Table 4.12."""

EARLY, SEMI = "early_stopping", "semi_supervised"
"""Rows that need more than a training method: PGD's runs stopped early, and unlabeled images."""

METHODS = (*REGULARIZERS, EARLY, SEMI)


def chosen(names: Sequence[str] | None, unlabeled: int) -> tuple[str, ...]:
    """The families asked for; by default Table 4.13's, the last only with unlabeled images.

    Raises:
      ValueError: an unknown name, or semi-supervised training without unlabeled images.
    """
    if names is None:
        table = ("pgd", EARLY, "l1", "l2", "cutout", "mixup", SEMI)
        return table if unlabeled else table[:-1]
    for name in names:
        checks.choice("method", name, METHODS)
    if SEMI in names and not unlabeled:
        raise ValueError(
            f"{SEMI} needs unlabeled images, but all are labeled; give --images a smaller number"
        )
    return tuple(names)
