"""The study's tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from jaxrobust import attacks
from jaxrobust.data import Dataset
from jaxrobust.evaluation import Curve, Report, curve, evaluate
from jaxrobust.threats import L1
from jaxrobust.types import Attack

from ..common.attack_menu import make_threat
from ..common.rows import Outcome
from ..common.runner import EVAL_BATCH, judged_network
from ..common.tables import averaged
from .recipes import NORMS, PUBLISHED, Setting
from .suite import suite, worst_cases

COLUMNS = "clean / linf / l2 / l1 / all"


@dataclasses.dataclass(frozen=True)
class Judged:
    """A trained run, attacked in every ball."""

    outcome: Outcome
    report: Report

    @property
    def every(self) -> dict[str, float]:
        """Clean accuracy and that under each attack, in %."""
        own = {name: attack.accuracy for name, attack in self.report.attacks.items()}
        return {"Clean": self.report.clean_accuracy, **own}


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """What all runs are judged by."""

    chosen: Setting
    dataset: Dataset
    folder: Path
    progress: bool

    def _evaluation(self, outcome: Outcome, name: str) -> dict[str, Any]:
        """Where an evaluation of a run is kept, and how it is run."""
        name = f"{name}_first{self.dataset.test.size}"
        return {
            "batch_size": EVAL_BATCH,
            "num_classes": self.dataset.num_classes,
            "progress": self.progress,
            "folder": self.folder / f"{outcome.method}-seed{outcome.seed}" / name,
        }

    def _subject(self, outcome: Outcome) -> tuple[Any, ...]:
        recipe = self.chosen.recipe
        model = judged_network(recipe, self.dataset)
        return jax.random.key(outcome.seed), model, outcome.variables, self.dataset.test

    def judge(self, outcome: Outcome) -> Judged:
        """Every attack of every ball on a run; saved batch by batch."""
        chosen = self.chosen
        # Other budgets are other attacks.
        budget = f"restarts{chosen.restarts}_queries{chosen.queries}"
        held = self._evaluation(outcome, f"attacks_{budget}")
        made = suite(chosen.attacks, chosen)
        about = {"data": self.dataset.label, "method": outcome.method, "seed": outcome.seed}
        report = evaluate(*self._subject(outcome), made, metadata=about, **held)
        if jax.process_index() == 0:
            report.save(held["folder"] / "report")
        return Judged(outcome, report)

    def curve(self, outcome: Outcome, norm: str) -> Curve:
        """Robust accuracy against the radius of a ball, by PGD; of l1, by APGD.

        PGD's steps grow with the radius. In l1 it finds much less than APGD does.
        """
        index, chosen = NORMS.index(norm), self.chosen
        radius, steps = chosen.recipe.radii[index], chosen.test_steps[index]
        budget = f"_queries{chosen.queries}" if norm == "l1" else ""

        def at(r: float) -> Attack:
            threat, size = make_threat(norm, r), chosen.sizes[index] * r / radius
            if isinstance(threat, L1):
                return attacks.apgd_l1(threat, steps=chosen.queries)
            return attacks.pgd(threat, step_size=size, steps=steps)

        return curve(
            *self._subject(outcome),
            at,
            [share * radius for share in chosen.shares],
            **self._evaluation(outcome, f"curve_{norm}{budget}"),
        )


def summary(judged: Sequence[Judged], name: str) -> list[dict[str, Any]]:
    """Tables 5.2 and 5.3 but for single attacks; `name` is the data set's."""
    published = PUBLISHED.get(name)
    table = []
    for method, runs in _grouped(judged).items():
        row = {"method": method, **averaged([worst_cases(run.report) for run in runs])}
        if published is not None:
            figures_of = published.get(method, ())
            row[f"published {COLUMNS}"] = " / ".join(f"{f:g}" for f in figures_of)
        table.append(row)
    return table


def details(judged: Sequence[Judged]) -> list[dict[str, Any]]:
    """Every attack's accuracy by row."""
    return [
        {"method": method, **averaged([run.every for run in runs])}
        for method, runs in _grouped(judged).items()
    ]


def _grouped(judged: Sequence[Judged]) -> dict[str, list[Judged]]:
    names = dict.fromkeys(run.outcome.method for run in judged)
    return {name: [run for run in judged if run.outcome.method == name] for name in names}


def title(chosen: Setting, dataset: Dataset, seeds: Sequence[int]) -> str:
    """What the figures were measured on."""
    recipe = chosen.recipe
    balls = ", ".join(f"{n} {r:.3g}" for n, r in zip(NORMS, recipe.radii, strict=True))
    return (
        f"{dataset.label}: {recipe.model}, {recipe.epochs} epochs, {dataset.train.size} training "
        f"images, the first {dataset.test.size} test images; {balls}; worst case over "
        f"{' '.join(chosen.attacks)}, {chosen.restarts} restarts; seeds "
        f"{' '.join(map(str, seeds))}; mean ± standard deviation, %"
    )


def trained_by(chosen: Setting) -> dict[str, Any]:
    """What of the setting a training run depends on, beside its recipe."""
    names = ("sizes", "steps", "msd_radii", "msd_sizes", "msd_steps")
    return {name: getattr(chosen, name) for name in names}
