"""FOSC's black-box table: points made on a network trained apart (section 5.1)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from jaxrobust.data import Dataset
from jaxrobust.types import Model

from ..common.black_box import Source, black_box
from ..common.options import Options
from ..common.recipes import Recipe
from ..common.rows import Judge, Method, Outcome
from ..common.runner import file_name, judged_network, run_rows
from ..common.tables import averaged, beside
from .recipes import TABLE_2, columns


def transferred(
    row: Method,
    outcomes: Sequence[Outcome],
    settings: Recipe,
    dataset: Dataset,
    options: Options,
    folder: Path,
) -> list[dict[str, Any]]:
    """Table 2: accuracies of trained runs on points made on the network that `row` trains.

    Its seed is none of theirs, so that it shares no initial weights with them.
    """
    (surrogate,) = run_rows(
        [row],
        settings,
        dataset,
        judge=Judge({}),
        **options.runs(folder) | {"seeds": (max(options.seeds) + 1,)},
    )

    def built(recipe: Recipe) -> Model:
        return judged_network(recipe, dataset)

    source = Source(built(row.recipe(settings)), surrogate.variables)
    rows = []
    for method in dict.fromkeys(o.method for o in outcomes):
        runs = []
        for outcome in outcomes:
            if outcome.method != method:
                continue
            report = black_box(
                outcome,
                built(settings),
                source,
                columns(settings),
                dataset,
                progress=options.progress,
            )
            if jax.process_index() == 0:
                report.save(folder / f"{file_name(method)}-from-surrogate-{outcome.seed}")
            runs.append({name: a.accuracy for name, a in report.attacks.items()})
        shown = beside(method, TABLE_2.get(options.name), " / ".join(columns(settings)))
        rows.append({"method": method, **averaged(runs), **shown})
    return rows
