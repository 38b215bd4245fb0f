"""Options, settings and recipes of the study."""

from __future__ import annotations

import dataclasses

import tyro

from ..common.defense_menu import METHODS
from ..common.options import Options
from ..common.recipes import QUICK, Recipes

RECIPES: Recipes = {
    name: dataclasses.replace(recipe, autoattack=200) for name, recipe in QUICK.items()
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Trains every method and prints clean and robust test accuracies, AutoAttack's included."""

    options: tyro.conf.OmitArgPrefixes[Options] = dataclasses.field(default_factory=Options)
    methods: tuple[str, ...] = METHODS
    """A row each; constrained ones (dale, kl_dale, reverse_dale) one for each --rho."""
    rho: tuple[float, ...] = (0.2,)
    """Levels of the constrained loss."""
    steps: int | None = None
    """Steps of training attacks (default: the preset's)."""
