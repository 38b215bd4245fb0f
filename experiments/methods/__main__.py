"""Every training method of the five texts, trained alike and judged alike.

    python -m experiments.methods
    python -m experiments.methods --dataset mnist --limit 10000 --test-limit 1000
    python -m experiments.methods --methods pgd trades mart --seeds 0

One recipe per data set serves all rows, so that they differ in their method alone; no paper's
table is repeated here (the other scripts do that). Methods for a union of norms train on balls of
three norms and are judged on one of them like all others. Every run resumes from its folder.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping

import jax
import tyro

from experiments.common.defense_menu import METHODS, REPLAYS, make_methods
from experiments.common.options import Options, distinct
from experiments.common.recipes import QUICK, Recipe, Recipes
from experiments.common.runner import Method, command_line, judge, run_rows, setup
from experiments.common.tables import publish, summarize, told
from jaxrobust import checks
from jaxrobust.data import Dataset

RECIPES: Recipes = {
    name: dataclasses.replace(recipe, autoattack=200) for name, recipe in QUICK.items()
}
SOURCES: Mapping[str, str] = {
    "erm": "",
    "fgsm": "Goodfellow et al. 2015",
    "fgsm_rs": "Wong 4.1",
    "n_fgsm": "de Jorge et al. 2022",
    "grad_align": "Andriushchenko & Flammarion 2020",
    "free": "Shafahi et al. 2019",
    "pgd": "Madry et al. 2018",
    "alp": "DALE's code",
    "alp_original": "Kannan et al. 2018",
    "clp": "DALE's code",
    "clp_original": "Kannan et al. 2018",
    "trades": "TRADES",
    "mart": "Wang et al. 2020",
    "dynamic": "FOSC",
    "curriculum": "Cai et al. 2018",
    "curriculum_mixed": "Cai et al. 2018",
    "beta": "BETA",
    "sbeta": "BETA",
    "msd": "Wong 5.3",
    "worst": "Wong 5.3",
    "augmented": "Wong 5.3",
    "cvar": "Rockafellar & Uryasev 2000",
    "awp": "Wu et al. 2020",
    "mixup": "Wong 4.4",
    "dale": "DALE",
    "kl_dale": "DALE",
    "reverse_dale": "DALE",
}
"""The text that a method is taken from."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Trains every method and prints clean and robust test accuracies, AutoAttack's included."""

    options: tyro.conf.OmitArgPrefixes[Options] = dataclasses.field(default_factory=Options)
    methods: tuple[str, ...] = METHODS
    """A row each; constrained ones (dale, kl_dale, reverse_dale) one for each --rho."""
    rho: tuple[float, ...] = (0.2,)
    """Levels of the constrained loss."""
    steps: int | None = None
    """Of training attacks (default: the preset's)."""


def rows_of(config: Config, settings: Recipe, dataset: Dataset) -> list[Method]:
    """The rows of the table; Free visits a batch several times in correspondingly fewer epochs."""
    rows = make_methods(config.methods, settings, dataset)
    fewer = {"epochs": max(1, round(settings.epochs / REPLAYS))}
    return [
        dataclasses.replace(row, changes=fewer) if row.defense.replays > 1 else row for row in rows
    ]


def main(config: Config) -> list[dict]:
    """Runs the study; returns the rows of its table."""
    began = time.perf_counter()
    options = config.options
    settings = options.recipe(RECIPES, rho=config.rho, steps=config.steps)
    distinct("methods", config.methods)
    distinct("rho", config.rho)
    for name in config.methods:
        checks.choice("method", name, METHODS)
    dataset = options.load(settings)
    folder = options.folder("methods")
    outcomes = run_rows(
        rows_of(config, settings, dataset),
        settings,
        dataset,
        judge=judge(settings),
        **options.runs(folder),
    )
    table = summarize(outcomes)
    for row in table:
        row["source"] = SOURCES[row["method"].split()[0]]
    if jax.process_index() == 0:
        about = options.about("methods", "all five texts")
        publish(folder / "table", setup(settings, dataset, options.seeds), table, about=about)
        told([folder / "table.md"], began)
    return table


if __name__ == "__main__":
    command_line(main, Config, __doc__)
