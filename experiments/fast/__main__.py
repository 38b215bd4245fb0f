"""Fast adversarial training: sections 4.1 and 4.2 of Wong's thesis, ImageNet apart.

    python -m experiments.fast
    python -m experiments.fast --part start --dataset mnist --seeds 0 1 2 3 4 5 6 7 8 9
    python -m experiments.fast --part verified --time-limit 120
    python -m experiments.fast --part time --target 60
    python -m experiments.fast --part steps
    python -m experiments.fast --part collapse --dataset cifar10 --test-limit 1000
    python -m experiments.fast --dataset cifar10 --preset paper

Times are those of the machine it runs on, compiling apart. Every run resumes from its folder, and
integer programs from their last image.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import jax
import tyro

from experiments.common.options import Options, distinct
from experiments.common.runner import command_line
from experiments.common.tables import told
from experiments.fast import tables
from experiments.fast.methods import METHODS
from experiments.fast.recipes import RECIPES, Setting, setting_of
from experiments.fast.run import Rows, Run
from experiments.provable.exactness import TIME_LIMIT
from jaxrobust import checks


@dataclasses.dataclass(frozen=True)
class Config:
    """Trains by single steps, by Free and by PGD, and prints accuracies and times."""

    options: tyro.conf.OmitArgPrefixes[Options] = dataclasses.field(default_factory=Options)
    part: Literal["table", "start", "verified", "time", "steps", "collapse"] = "table"
    """table: Table 4.1. start: 4.3. verified: 4.4. time: 4.6 and Figure 4.7. steps: Figures 4.4 and
    4.5. collapse: catastrophic overfitting, N-FGSM and GradAlign in a small network."""
    methods: tuple[str, ...] | None = None
    """Rows of the part table, start, verified or collapse by their names there, or fgsm_rs, free,
    pgd of the part time (default: all)."""
    restarts: int | None = None
    """Of the PGD that judges (default: the preset's)."""
    steps: int | None = None
    """Of training by PGD and of validation (default: the preset's)."""
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


def main(config: Config) -> Rows:
    """Runs a part of the study; returns the rows of its table."""
    began = time.perf_counter()
    chosen, options = setting(config), config.options
    dataset = options.load(chosen.recipe)
    folder = options.folder("fast") / config.part
    run = Run(options, chosen, dataset, folder, config.methods)
    makers: Mapping[str, Callable[[], tuple[Rows, list[Path]]]] = {
        "table": lambda: tables.table(run),
        "start": lambda: tables.start(run),
        "verified": lambda: tables.verified(run, config.time_limit),
        "time": lambda: tables.race(run),
        "steps": lambda: tables.steps(run),
        "collapse": lambda: tables.collapse(run),
    }
    table, written = makers[config.part]()
    if jax.process_index() == 0:
        told(written, began)
    return table


if __name__ == "__main__":
    command_line(main, Config, __doc__)
