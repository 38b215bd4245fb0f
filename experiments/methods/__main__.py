"""Every training method of the five texts, trained alike and judged alike.

    python -m experiments.methods
    python -m experiments.methods --dataset mnist --limit 10000 --test-limit 1000
    python -m experiments.methods --methods pgd trades mart --seeds 0

One recipe per data set serves all rows, so that they differ in their method alone; no paper's
table is repeated here (the other scripts do that). Methods for a union of norms train on balls of
three norms and are judged on one of them like all others. Every run resumes from its folder.
"""

from __future__ import annotations

import time

import jax

from jaxrobust import checks

from ..common.cli import command_line
from ..common.defense_menu import METHODS
from ..common.options import distinct
from ..common.runner import judge, run_rows, setup
from ..common.tables import publish, summarize, told
from .config import RECIPES, Config
from .methods import rows_of
from .published import SOURCES


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
