"""The expensive attacks of the headline, once all rows are trained and while time is left."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax

from jaxrobust import attacks
from jaxrobust.data import Dataset
from jaxrobust.evaluation import Report, evaluate
from jaxrobust.types import Attack

from ..common.options import Options
from ..common.rows import Outcome
from ..common.runner import EVAL_BATCH, file_name, judged_network
from .deadline import Deadline
from .methods import Row
from .recipes import RESTARTS, Setting


class Trial(NamedTuple):
    """An evaluation of every run."""

    column: str
    suite: dict[str, Attack]
    images: int


Found = dict[tuple[str, int], dict[str, float]]
"""Results by row and seed: accuracies in % by column."""


def trials(chosen: Setting, dataset: Dataset) -> list[Trial]:
    """PGD with restarts, then AutoAttack, on the first test images."""
    recipe, total = chosen.recipe, dataset.test.size
    pgd = attacks.pgd(recipe.threat, step_size=recipe.eval_step_size, steps=recipe.eval_steps)
    name = f"PGD-{recipe.eval_steps}-{RESTARTS}"
    made = [Trial(name, {name: attacks.restarts(pgd, RESTARTS, chunk=1)}, chosen.images)]
    if recipe.autoattack:
        made.append(Trial("AutoAttack", attacks.autoattack(recipe.threat), recipe.autoattack))
    found = [trial._replace(images=min(trial.images, total)) for trial in made]
    return [trial._replace(column=f"{trial.column} ({trial.images})") for trial in found]


def judged(
    outcomes: Sequence[Outcome],
    chosen: Setting,
    dataset: Dataset,
    *,
    options: Options,
    folder: Path,
    deadline: Deadline,
) -> Found:
    """Every run under every trial that time allows, one trial after the other; resumes by batch."""
    recipe = chosen.recipe
    model = judged_network(recipe, dataset)
    found: Found = {(o.method, o.seed): {} for o in outcomes}
    for trial in trials(chosen, dataset):
        split = dataset.test.first(trial.images)
        for outcome in outcomes:
            if not deadline.allows(trial.column):
                return found
            run = f"{file_name(outcome.method)}-seed{outcome.seed}"
            with deadline.spent(trial.column):
                report: Report = evaluate(
                    jax.random.key(outcome.seed),
                    model,
                    outcome.variables,
                    split,
                    trial.suite,
                    survivors=True,
                    batch_size=EVAL_BATCH,
                    num_classes=dataset.num_classes,
                    progress=options.progress,
                    metadata={"data": dataset.label, "model": recipe.model, "run": run},
                    folder=folder / run / file_name(trial.column),
                )
            found[outcome.method, outcome.seed][trial.column] = report.worst_case_accuracy
    return found


def missing(
    rows: Sequence[Row], outcomes: Sequence[Outcome], found: Found, *, seeds: Sequence[int]
) -> str:
    """What is not done: runs that have not trained to their end, and attacks that runs lack."""
    trained = {(o.method, o.seed) for o in outcomes}
    wanted = [(row.method.name, seed) for row in rows for seed in seeds]
    untrained = [f"training {n} (seed {s})" for n, s in wanted if (n, s) not in trained]
    columns = dict.fromkeys(column for columns in found.values() for column in columns)
    lacking = {c: [n for (n, _), has in found.items() if c not in has] for c in columns}
    unjudged = [f"{c} of {' '.join(dict.fromkeys(ns))}" for c, ns in lacking.items() if ns]
    return ", ".join(untrained + unjudged)
