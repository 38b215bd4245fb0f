"""The parts of the study: their rows, and how they are compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from jaxrobust.data import Dataset, Split

from ..common.attack_menu import number
from ..common.recipes import Recipe
from ..common.rows import Method
from . import methods as rows
from .config import Config
from .grids import EARLY, REGULARIZERS, SEMI, chosen, grid


class Part(NamedTuple):
    """What a part of the study trains and shows."""

    methods: list[Method]
    shown: Mapping[str, tuple[str, bool]]
    """Row of the table -> (method whose runs it shows, whether they are stopped early)."""


def plain(methods: list[Method]) -> Part:
    """A part whose table shows every method once."""
    return Part(methods, {method.name: (method.name, False) for method in methods})


def regularizers(
    config: Config, settings: Recipe, dataset: Dataset, pool: Split, label: Callable[[], Dataset]
) -> Part:
    """The rows of Table 4.13. `label` trains for pseudo-labels: called once all else is made."""
    names = chosen(config.methods, pool.size)
    tried = grid(config.grid, config.options.preset, dataset)
    made = {n: REGULARIZERS[n](settings, dataset, tried) for n in names if n in REGULARIZERS}
    if EARLY in names:
        made.setdefault("pgd", REGULARIZERS["pgd"](settings, dataset, tried))
    if SEMI in names:
        made[SEMI] = [Method(SEMI, rows.by_pgd(settings, dataset), dataset=label())]
    shown: dict[str, tuple[str, bool]] = {}
    for name in names:
        if name == EARLY:
            shown[EARLY] = ("pgd", True)
        else:
            shown |= {method.name: (method.name, False) for method in made[name]}
    return Part([method for family in made.values() for method in family], shown)


def part_of(
    config: Config, settings: Recipe, dataset: Dataset, pool: Split, label: Callable[[], Dataset]
) -> Part:
    """The rows of the part asked for.

    Raises:
      ValueError: an unknown name, an impossible number, or a value given twice.
    """
    defense = rows.by_pgd(settings, dataset)
    if config.part == "regularizers":
        return regularizers(config, settings, dataset, pool, label)
    if config.part == "schedules":
        return plain(rows.schedules(config.schedules, settings, defense))
    if config.part == "trades":
        return plain(rows.trades_schedules(settings, dataset, config.options.dataset))
    if config.part == "widths":
        return plain(rows.widths(config.widths, config.options.dataset, defense))
    if config.part == "radii":
        usual = [settings.epsilon * share for share in (0.5, 1.0, 2.0)]
        radii = usual if config.radii is None else [number(t, "radii") for t in config.radii]
        return plain(rows.radii(radii, settings, dataset))
    count = dataset.train.size
    return plain(rows.sizes(config.sizes or (count // 4, count // 2, count), dataset, defense))
