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

import time
from typing import Any

import jax

from jaxrobust import figures

from ..common.cli import command_line
from ..common.runner import judge, run_rows, setup
from ..common.tables import publish, summarize, told
from . import plots
from .config import Config, checked
from .measure import TOP, fosc_probe
from .methods import rows_of, surrogate_row
from .recipes import COLUMNS, TABLE_1, columns
from .surrogate import transferred
from .tables import stages, strength


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
