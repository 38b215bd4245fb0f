"""TRADES' black-box tables: points made on one model, judged on another (section 5.3.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.tree_util import Partial

from jaxrobust import attacks
from jaxrobust.data import Dataset, Split

from ..common.black_box import Source, black_box
from ..common.per_image import clean_cross_entropy, per_image
from ..common.recipes import Recipe
from ..common.rows import Outcome
from ..common.runner import file_name, judged_network
from ..common.tables import averaged, beside
from .methods import iterated

PAIRS = (
    ("pgd", "erm"),
    ("trades 1/lambda=6", "erm"),
    ("pgd", "trades 1/lambda=6"),
    ("trades 1/lambda=6", "pgd"),
)
"""Defended model and source of Tables 6, 7, 9 and 10."""

COLUMNS = "FGSM^k / FGSM / loss in brackets"


def transfers(
    outcomes: Sequence[Outcome],
    settings: Recipe,
    dataset: Dataset,
    published: Mapping[str, Sequence[float]] | None,
    *,
    folder: Path,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """A row per pair: accuracies in %, and mean cross-entropies on clean and attacked images.

    The paper's loss in brackets cannot be either: one model has different ones under two sources,
    and they lie below log 2 times the share of errors, the least that wrong predictions cost.

    Args:
      outcomes: of the models, both of a pair from the same seed. folder: of the reports.
    """
    model = judged_network(settings, dataset)
    columns = {
        f"FGSM{settings.eval_steps}": iterated(settings, settings.eval_steps),
        "FGSM": attacks.fgsm(settings.threat),
    }
    trained = {(o.method, o.seed): o for o in outcomes}

    def measured(target: Outcome, source: Outcome) -> dict[str, float]:
        report = black_box(
            target,
            model,
            Source(model, source.variables),
            columns,
            dataset,
            keep_examples=True,
            progress=progress,
        )
        if jax.process_index() == 0:
            pair = file_name(f"{target.method} from {source.method}")
            report.save(folder / f"{pair}-seed{target.seed}")

        def loss(x: np.ndarray) -> float:
            split = Split(x, dataset.test.y)
            each = per_image(Partial(clean_cross_entropy), model, target.variables, split)
            return float(each.mean())

        found = {name: attack.accuracy for name, attack in report.attacks.items()}
        found["clean loss"] = loss(dataset.test.x)
        for name, attack in report.attacks.items():
            found[f"{name} loss"] = loss(attack.examples)
        return found

    rows = []
    for target, source in PAIRS:
        runs = [
            measured(outcome, trained[source, outcome.seed])
            for outcome in outcomes
            if outcome.method == target
        ]
        name = f"{target} ({source})"
        rows.append({"method": name, **averaged(runs), **beside(name, published, COLUMNS)})
    return rows
