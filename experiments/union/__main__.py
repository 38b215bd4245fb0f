"""Robustness to several norms at once: sections 5.3 and 5.4 of Wong's thesis.

    python -m experiments.union
    python -m experiments.union --methods worst msd --attacks pgd pointwise boundary
    python -m experiments.union --dataset mnist --limit 10000 --seeds 0
    python -m experiments.union --dataset mnist --preset paper

The table holds the worst case over the attacks of each ball and of all balls, image by image
(Tables 5.2 and 5.3); a second file has every attack, and a figure for each norm the robustness
curves (Figures 5.9 to 5.14) of the first seed. Every run resumes from its folder, and its
evaluation from the last batch.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import tyro

from experiments.common.attack_menu import make_threat
from experiments.common.options import Options, distinct
from experiments.common.runner import (
    EVAL_BATCH,
    Judge,
    Outcome,
    command_line,
    judged_network,
    run_rows,
)
from experiments.common.tables import averaged, publish, told
from experiments.union.methods import ROWS, rows_of
from experiments.union.recipes import NORMS, PUBLISHED, RECIPES, Setting, setting_of
from experiments.union.suite import suite, worst_cases
from jaxrobust import attacks, checks, figures
from jaxrobust.data import Dataset
from jaxrobust.evaluation import Curve, Report, curve, evaluate
from jaxrobust.threats import L1
from jaxrobust.types import Attack

COLUMNS = "clean / linf / l2 / l1 / all"


@dataclasses.dataclass(frozen=True)
class Config:
    """Trains in one norm and in the union of three, and attacks every row in all of them."""

    options: tyro.conf.OmitArgPrefixes[Options] = dataclasses.field(default_factory=Options)
    methods: tuple[str, ...] = tuple(ROWS)
    """A row each: erm, linf, l2, l1, worst (Worst-PGD), augmented (PGD-Aug), msd."""
    attacks: tuple[str, ...] | None = None
    """Of pgd, fgsm, mim, deepfool, ddn, cw, ead, apgd, noise, salt-and-pepper, pointwise and
    boundary, each in the balls of the thesis' tables (default: the preset's)."""
    restarts: int | None = None
    """Of attacks that draw random numbers."""
    queries: int | None = None
    """Steps of ddn, cw, ead, apgd and boundary."""
    images: int | None = None
    """Attack the first so many test images (default: the preset's, or --test-limit)."""
    curves: bool = True
    """Draw the robustness curves."""


def setting(config: Config) -> Setting:
    """The preset's setting with the options that are given.

    Raises:
      ValueError: an unknown data set or preset, an impossible number, or AutoAttack asked for.
    """
    options = config.options
    recipe = options.recipe(RECIPES)
    if recipe.autoattack:
        raise ValueError(
            f"autoattack={recipe.autoattack} judges one ball alone and has no column here; leave "
            "it away: --attacks names the attacks of all three"
        )
    names = ("attacks", "restarts", "queries", "images")
    given = {n: getattr(config, n) for n in names if getattr(config, n) is not None}
    preset = setting_of(options.dataset, options.preset)
    chosen = dataclasses.replace(preset, recipe=recipe, **given)
    for name in ("restarts", "queries", "images"):
        checks.at_least(name, getattr(chosen, name), 1)
    distinct("methods", config.methods)
    distinct("attacks", chosen.attacks)
    if not config.methods:
        raise ValueError("nothing to run: give at least one of --methods")
    return chosen


def load(config: Config, chosen: Setting) -> Dataset:
    """The data set with the test images that are attacked."""
    given = config.options.test_limit
    limit = chosen.images if given is None else min(given, chosen.images)
    return dataclasses.replace(config.options, test_limit=limit).load(chosen.recipe)


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


def main(config: Config) -> list[dict[str, Any]]:
    """Runs the study; returns the rows of its table."""
    began = time.perf_counter()
    chosen, options = setting(config), config.options
    # Before anything is trained.
    methods, _ = rows_of(config.methods, chosen), suite(chosen.attacks, chosen)
    dataset = load(config, chosen)
    folder = options.folder("union")
    outcomes = run_rows(
        methods,
        chosen.recipe,
        dataset,
        judge=Judge({}),
        **options.runs(folder, setting=trained_by(chosen)),
    )
    evaluator = Evaluator(chosen, dataset, folder, options.progress)
    judged = [evaluator.judge(outcome) for outcome in outcomes]
    first = [outcome for outcome in outcomes if outcome.seed == options.seeds[0]]
    curves = {
        norm: {outcome.method: evaluator.curve(outcome, norm) for outcome in first}
        for norm in (NORMS if config.curves else ())
    }
    table = summary(judged, options.dataset)
    if jax.process_index() != 0:
        return table

    about = options.about("union", "Wong's thesis, Tables 5.2 and 5.3")
    heading = title(chosen, dataset, options.seeds)
    publish(folder / "table", heading, table, about=about)
    publish(folder / "attacks", f"every attack; {heading}", details(judged), about=about)
    written = [folder / "table.md", folder / "attacks.md"]
    for norm, lines in curves.items():
        drawn = figures.robustness_curve(lines, unit=f"{norm} radius")
        written.append(figures.save_figure(drawn, folder / f"figure9_{norm}.png"))
    told(written, began)
    return table


def trained_by(chosen: Setting) -> dict[str, Any]:
    """What of the setting a training run depends on, beside its recipe."""
    names = ("sizes", "steps", "msd_radii", "msd_sizes", "msd_steps")
    return {name: getattr(chosen, name) for name in names}


if __name__ == "__main__":
    command_line(main, Config, __doc__)
