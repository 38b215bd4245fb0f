"""The library's whole story in one command: robust accuracy, its price, and what it costs to train.

    python -m experiments.headline
    python -m experiments.headline --dataset mnist --seeds 0 1 2
    python -m experiments.headline --dataset cifar10 --minutes 12
    python -m experiments.headline --rows pgd dale --rho 0.1 0.2 0.3

Single-step training (N-FGSM, FGSM-RS), PGD training, TRADES along its weight and DALE along the
level of its clean loss, whose multiplier a PI controller moves: all for the same number of epochs.
The table shows clean and FGSM accuracy on all test images, PGD-50-10 and AutoAttack on the first
ones (counts in brackets), what training took without compiling, and the published figures; the
figure shows the trade-off of clean against robust accuracy. Everything resumes: what --minutes left
undone, the same command goes on with.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from jaxrobust import attacks, figures
from jaxrobust.data import Dataset

from ..common.cli import command_line
from ..common.options import Options
from ..common.recipes import Recipe
from ..common.rows import Judge, Outcome
from ..common.runner import run_rows, setup
from ..common.tables import publish, told
from . import costs
from .config import Config, setting
from .deadline import Deadline
from .judging import judged, missing
from .methods import Row, rows_of
from .recipes import PUBLISHED
from .tables import front, table_of


def train(
    rows: Sequence[Row],
    recipe: Recipe,
    dataset: Dataset,
    *,
    options: Options,
    folder: Path,
    deadline: Deadline,
) -> list[Outcome]:
    """Every row that time allows, clean and FGSM accuracy included; those that trained to the end.

    With the judge's attacks on all test images; the others come later, once all rows are trained.
    """
    outcomes = []
    judge = Judge({"FGSM": attacks.fgsm(recipe.threat)})
    for row in rows:
        if not deadline.allows(row.family):
            continue
        method = dataclasses.replace(row.method, stop=deadline.stop)
        with deadline.spent(row.family):
            outcomes += run_rows([method], recipe, dataset, judge=judge, **options.runs(folder))
    return [o for o in outcomes if len(o.history) == recipe.epochs]


def main(config: Config) -> list[dict[str, Any]]:
    """Runs the study; returns the rows of its table."""
    began = time.perf_counter()
    chosen, options = setting(config), config.options
    recipe, deadline = chosen.recipe, Deadline(chosen.minutes)
    dataset = options.load(recipe)
    folder = options.folder("headline")
    rows = rows_of(config.rows, recipe, dataset, rho=chosen.rho, beta=chosen.beta)
    shared = {"options": options, "folder": folder, "deadline": deadline}
    outcomes = train(rows, recipe, dataset, **shared)
    found = judged(outcomes, chosen, dataset, **shared)
    if jax.process_index() != 0:
        return []
    table = table_of(
        rows,
        outcomes,
        found,
        batch_size=recipe.batch_size,
        flops=costs.forward_flops(recipe, dataset),
        peak=costs.peak(recipe.dtype) * jax.device_count(),
        published=PUBLISHED.get(options.name),
    )
    left = missing(rows, outcomes, found, seeds=options.seeds)
    if left:
        print(f"not done in time (the same command goes on): {left}")
    if not table:
        raise ValueError("no row was trained to its end; give more --minutes, or run again")
    title = f"{setup(recipe, dataset, options.seeds)}; {recipe.dtype}"
    about = options.about("headline", "DALE, TRADES, Wong's thesis")
    publish(folder / "table", title, table, about=about)
    figure = figures.save_figure(front(rows, outcomes, found), folder / "trade_off.png")
    told([folder / "table.md", figure], began)
    return table


if __name__ == "__main__":
    command_line(main, Config, __doc__)
