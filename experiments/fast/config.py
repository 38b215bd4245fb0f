"""Options, settings and recipes of the study."""

from __future__ import annotations

import dataclasses
from typing import Literal

import tyro

from jaxrobust import checks

from ..common.integer_programs import TIME_LIMIT
from ..common.options import Options, distinct
from .methods import METHODS
from .recipes import RECIPES, Setting, setting_of


@dataclasses.dataclass(frozen=True)
class Config:
    """Trains by single steps, by Free and by PGD, and prints accuracies and times."""

    options: tyro.conf.OmitArgPrefixes[Options] = dataclasses.field(default_factory=Options)
    part: Literal["table", "start", "verified", "time", "steps", "collapse"] = "table"
    """table: Table 4.1, Figures 4.2 and 4.3. start: Table 4.3. verified: 4.4. time: 4.6 and Figure
    4.7. steps: Figures 4.4 and 4.5. collapse: catastrophic overfitting, N-FGSM and GradAlign in a
    small network."""
    methods: tuple[str, ...] | None = None
    """Rows of the part table, start, verified or collapse by their names there, or fgsm_rs, free,
    pgd of the part time (default: all)."""
    restarts: int | None = None
    """Restarts of the PGD that judges (default: the preset's)."""
    steps: int | None = None
    """Steps of training by PGD and of validation (default: the preset's)."""
    drop: float | None = None
    """Percentage points of robust accuracy, lost in an epoch, that end a run (default: the
    preset's)."""
    exact: int | None = None
    """verified: how many test images, the first ones, integer programs decide."""
    time_limit: float = TIME_LIMIT
    """verified: seconds per image."""
    budgets: tuple[int, ...] | None = None
    """time: numbers of epochs; those of Free are its replays, 8 to a pass over the data."""
    target: float | None = None
    """time: robust accuracy in % to reach."""
    ratios: tuple[float, ...] | None = None
    """steps: step sizes, in radii."""


def setting(config: Config) -> Setting:
    """The preset's setting with the options that are given.

    Raises:
      ValueError: an unknown data set or preset, or an impossible number.
    """
    options = config.options
    recipe = options.recipe(RECIPES, steps=config.steps)
    names = ("restarts", "drop", "exact", "budgets", "target", "ratios")
    given = {n: getattr(config, n) for n in names if getattr(config, n) is not None}
    preset = setting_of(options.dataset, options.preset)
    chosen = dataclasses.replace(preset, recipe=recipe, **given)
    if config.methods is not None:
        if config.part not in METHODS:
            raise ValueError("--methods names no rows of the part steps; give it --ratios")
        distinct("methods", config.methods)
        for name in config.methods:
            checks.choice(f"method of the part {config.part}", name, METHODS[config.part])
    for name in ("restarts", "exact"):
        checks.at_least(name, getattr(chosen, name), 1)
    for name, value in (("time_limit", config.time_limit), ("target", chosen.target)):
        checks.positive(name, value)
    checks.positive("drop", chosen.drop)
    for name, values in (("budgets", chosen.budgets), ("ratios", chosen.ratios)):
        distinct(name, values)
        for value in values:
            checks.positive(name, value)
    if () in (config.methods, chosen.budgets, chosen.ratios):
        raise ValueError("nothing to run: --methods, --budgets and --ratios need a value each")
    return chosen
