"""FOSC's experiments: Tables 1 and 2, Figures 1 to 5.

    python -m experiments.fosc
    python -m experiments.fosc --dataset mnist --limit 10000 --seeds 0
    python -m experiments.fosc --methods pgd dynamic --part table --c-max 0.1
    python -m experiments.fosc --methods pgd pgd_small fgsm_pgd --part table
    python -m experiments.fosc --part steps --seeds 0
    python -m experiments.fosc --part radii --methods pgd curriculum dynamic
    python -m experiments.fosc --dataset cifar10 --preset paper

Parts: table (white-box, Table 1, with the distribution of FOSC over training, Figures 3 and 5),
black-box (points made on a network trained apart, Table 2) and strength (FOSC against accuracy and
loss, Figure 1); not by default steps (training and attacks by step size and number, Figure 2) and
radii (Figure 4). FOSC is measured from the clean image at the last point of the recipe's PGD, the
same for every method. Every run resumes from its folder.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import jax

from jaxrobust import figures
from jaxrobust.data import Dataset

from ..common.attack_menu import number
from ..common.cli import command_line
from ..common.recipes import Recipe
from ..common.rows import Judge
from ..common.runner import judge, run_rows, setup
from ..common.tables import publish, summarize, told
from . import plots, sweeps
from .config import Config, checked
from .measure import TOP, fosc_probe
from .methods import rows_of, surrogate_row
from .recipes import COLUMNS, TABLE_1, columns
from .surrogate import transferred
from .tables import stages, strength

Sheets = dict[str, tuple[str, str, list[dict[str, Any]]]]
"""Tables by name: heading, source and rows."""

Drawn = dict[str, figures.Figure]


def usual(
    config: Config, settings: Recipe, dataset: Dataset, folder: Path, title: str
) -> tuple[Sheets, Drawn]:
    """The parts that share the trained rows."""
    options = config.options
    outcomes = run_rows(
        rows_of(config, settings, dataset),
        settings,
        dataset,
        judge=judge(settings, columns=columns(settings)),
        probe=fosc_probe(settings, dataset.validation),
        **options.runs(folder),
    )
    sheets: Sheets = {}
    drawn: Drawn = {}
    if "table" in config.part:
        rows = summarize(outcomes, TABLE_1.get(options.name), columns=COLUMNS)
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
    if "radii" in config.part:
        rows = sweeps.tested_at(outcomes, settings, dataset, radii_of(config, settings))
        sheets["tested_radii"] = (f"PGD10 at other radii; {title}", "FOSC, Figure 4a", rows)
        drawn["figure4a_radii"] = plots.lines(rows, x="attacked at", y="accuracy (%)")
    return sheets, drawn


def by_steps(
    config: Config, settings: Recipe, dataset: Dataset, folder: Path, title: str
) -> tuple[Sheets, Drawn]:
    """Figure 2."""
    sheets: Sheets = {}
    drawn: Drawn = {}
    for name, family in sweeps.settings_of(config.sizes, config.counts).items():
        outcomes = run_rows(
            [one.method(settings) for one in family],
            settings,
            dataset,
            judge=Judge({}),
            **config.options.runs(folder / "steps"),
        )
        rows = sweeps.crossed(family, outcomes, settings, dataset)
        heading = f"rows trained with, columns attacked with PGD of that step {name}; {title}"
        sheets[f"steps_{name}"] = (heading, "FOSC, Figure 2", rows)
        panel = plots.lines(rows, x="attacked with", y="accuracy (%)")
        drawn[f"figure2_{name}"] = panel
        found = sweeps.endings(family, outcomes, settings, dataset)
        drawn[f"figure2_{name}_fosc"] = plots.ends(found, TOP)
    return sheets, drawn


def by_radius(
    config: Config, settings: Recipe, dataset: Dataset, folder: Path, title: str
) -> tuple[Sheets, Drawn]:
    """Figure 4b."""
    radii = radii_of(config, settings)
    outcomes = run_rows(
        sweeps.trained_at(config, settings, dataset, radii),
        settings,
        dataset,
        judge=Judge({}),
        **config.options.runs(folder / "radii"),
    )
    rows = sweeps.same_radius(outcomes, settings, dataset, radii)
    heading = f"PGD10 at the radius of training; {title}"
    figure = plots.lines(rows, x="trained and attacked at", y="accuracy (%)")
    return {"trained_radii": (heading, "FOSC, Figure 4b", rows)}, {"figure4b_radii": figure}


def radii_of(config: Config, settings: Recipe) -> list[float]:
    """The radii of Figure 4."""
    if config.radii is not None:
        return [number(text, "radii") for text in config.radii]
    return [share * settings.epsilon for share in (0.25, 0.5, 0.75, 1.0)]


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
    title = setup(settings, dataset, options.seeds)
    jobs = [usual] if set(config.part) - {"steps"} else []
    jobs += [by_steps] if "steps" in config.part else []
    jobs += [by_radius] if "radii" in config.part else []
    sheets: Sheets = {}
    drawn: Drawn = {}
    for job in jobs:
        tables, pictures = job(config, settings, dataset, folder, title)
        sheets |= tables
        drawn |= pictures
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
