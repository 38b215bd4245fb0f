"""FOSC's experiments: Tables 1 and 2, Figures 1, 3 and 5.

    python -m experiments.fosc
    python -m experiments.fosc --dataset mnist --limit 10000 --seeds 0
    python -m experiments.fosc --methods pgd dynamic --part table --c-max 0.1
    python -m experiments.fosc --dataset cifar10 --preset paper

Parts: table (white-box, Table 1, with the distribution of FOSC over training, Figures 3 and 5),
black-box (points made on a network trained apart, Table 2) and strength (FOSC against accuracy and
loss, Figure 1). FOSC is measured from the clean image at the last point of the recipe's PGD, the
same for every method. Every run resumes from its folder.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any, Literal

import jax
import tyro

from experiments.common.defense_menu import make_methods, stepped
from experiments.common.options import Options, distinct
from experiments.common.recipes import Recipe, kin
from experiments.common.runner import Method, command_line, judge, run_rows, setup
from experiments.common.tables import publish, summarize, told
from experiments.fosc import plots
from experiments.fosc.measure import TOP, fosc_probe
from experiments.fosc.recipes import (
    COLUMNS,
    LESSONS,
    METHODS,
    RECIPES,
    SURROGATES,
    TABLE_1,
    UNTIL,
    columns,
)
from experiments.fosc.surrogate import transferred
from experiments.fosc.tables import stages, strength
from jaxrobust import checks, defenses, figures
from jaxrobust.data import Dataset

PARTS = ("table", "black-box", "strength")


@dataclasses.dataclass(frozen=True)
class Config:
    """Trains dynamic adversarial training and its baselines, and follows how attacks converge."""

    options: tyro.conf.OmitArgPrefixes[Options] = dataclasses.field(default_factory=Options)
    part: tuple[Literal["table", "black-box", "strength"], ...] = PARTS
    """What to print and draw; all parts share the trained rows."""
    methods: tuple[str, ...] = METHODS
    """A row each, of erm, pgd, curriculum, curriculum_mixed, dynamic."""
    c_max: float = 0.5
    """FOSC that dynamic training asks for at first."""
    until: float | None = None
    """Share of training after which dynamic training asks for 0 (default: the preset's)."""
    surrogate: Literal["pgd", "erm"] = "pgd"
    """How the black-box points' network is trained (the paper: pgd)."""
    surrogate_model: str | None = None
    """Its network (default: the defended one; at cifar10 paper resnet50)."""
    groups: int = 20
    """Of test images by FOSC, in Figure 1a."""
    images: int = 20
    """Traced in Figure 1b."""


def checked(config: Config) -> Recipe:
    """The recipe, once every option has been checked.

    Raises:
      ValueError: a part, method or number that cannot be run.
    """
    for name, values, known in (
        ("part", config.part, PARTS),
        ("methods", config.methods, METHODS),
    ):
        distinct(name, values)
        if not values:
            raise ValueError(f"nothing to run: --{name} is empty")
        for value in values:
            checks.choice("method" if name == "methods" else name, value, known)
    checks.choice("surrogate", config.surrogate, ("pgd", "erm"))
    checks.positive("c_max", config.c_max)
    checks.at_least("groups", config.groups, 2)
    checks.at_least("images", config.images, 1)
    if "strength" in config.part and "pgd" not in config.methods:
        raise ValueError("the part strength attacks the row pgd; add pgd to --methods")
    return config.options.recipe(RECIPES)


def dynamic_row(config: Config, settings: Recipe) -> Method:
    """Dynamic training with the given c_max and share T' / T of training."""
    options = config.options
    until = UNTIL.get((kin(options.dataset), options.preset), 0.8)
    until = until if config.until is None else config.until
    defense = defenses.dynamic(
        settings.threat,
        largest=config.c_max,
        until=until,
        ramp=settings.ramp,
        **stepped(settings),
    )
    default = config.c_max == 0.5 and config.until is None
    name = "dynamic" if default else f"dynamic c_max={config.c_max:g} until={until:g}"
    return Method(name, defense)


def surrogate_row(config: Config, settings: Recipe, dataset: Dataset) -> Method:
    """The network that black-box points are made on."""
    options = config.options
    usual = SURROGATES.get((kin(options.dataset), options.preset), settings.model)
    chosen = config.surrogate_model or usual
    (row,) = make_methods((config.surrogate,), settings, dataset)
    # The defended network's options are its own.
    own = {} if chosen == settings.model else {"model": chosen, "model_options": {}}
    return dataclasses.replace(row, name=f"{config.surrogate} {chosen}", changes=own)


def rows_of(config: Config, settings: Recipe, dataset: Dataset) -> list[Method]:
    """The rows of the tables."""
    options = config.options
    most = LESSONS.get((kin(options.dataset), options.preset), settings.steps)
    lessons = dataclasses.replace(settings, steps=most)
    rows = []
    for name in config.methods:
        own = lessons if name.startswith("curriculum") else settings
        rows += make_methods((name,), own, dataset)
    return [dynamic_row(config, settings) if r.name == "dynamic" else r for r in rows]


def main(config: Config) -> dict[str, list[dict[str, Any]]]:
    """Runs the study; returns the rows of each table by its name."""
    began = time.perf_counter()
    options, settings = config.options, checked(config)
    dataset = options.load(settings)
    if "strength" in config.part and dataset.test.size < config.groups:
        raise ValueError(
            f"{dataset.test.size} test images do not fill groups={config.groups}; use fewer"
        )
    folder = options.folder("fosc")
    outcomes = run_rows(
        rows_of(config, settings, dataset),
        settings,
        dataset,
        judge=judge(settings, columns=columns(settings)),
        probe=fosc_probe(settings, dataset.validation),
        **options.runs(folder),
    )
    title = setup(settings, dataset, options.seeds)
    sheets: dict[str, tuple[str, str, list[dict[str, Any]]]] = {}
    drawn: dict[str, figures.Figure] = {}
    if "table" in config.part:
        rows = summarize(outcomes, TABLE_1.get(options.dataset), columns=COLUMNS)
        sheets["table"] = (title, "FOSC, Table 1", rows)
        rows, histograms = stages(outcomes)
        told_of = f"FOSC of PGD{settings.steps} on {dataset.validation.size} images held out"
        sheets["stages"] = (f"{told_of}; {title}", "FOSC, Figures 3 and 5", rows)
        drawn["figure5_stages"] = plots.distributions(histograms, TOP)
    if "black-box" in config.part:
        row = surrogate_row(config, settings, dataset)
        rows = transferred(row, outcomes, settings, dataset, options, folder / "surrogate")
        sheets["black_box"] = (f"points of a {row.name}; {title}", "FOSC, Table 2", rows)
    if "strength" in config.part:
        run = next(o for o in outcomes if o.method == "pgd")
        rows, claim, more = strength(
            run, settings, dataset, count=config.groups, images=config.images
        )
        sheets["strength"] = (f"{claim}; {title}", "FOSC, Figure 1", rows)
        drawn |= more
    if jax.process_index() == 0:
        for name, (heading, source, rows) in sheets.items():
            about = options.about("fosc", source)
            publish(folder / name, f"{name}; {heading}", rows, about=about)
        written = [folder / f"{name}.md" for name in sheets]
        written += [
            figures.save_figure(figure, folder / f"{name}.png") for name, figure in drawn.items()
        ]
        told(written, began)
    return {name: rows for name, (_, _, rows) in sheets.items()}


if __name__ == "__main__":
    command_line(main, Config, __doc__)
