"""DALE's experiments: Tables 1 and 2, Figures 1 and 2.

    python -m experiments.dale
    python -m experiments.dale --dataset mnist --methods pgd dale --rho 0.2 --seeds 0
    python -m experiments.dale --dataset cifar10 --preset paper

Every run resumes from its folder under `--out`: run the same command again after an interruption.
"""

from __future__ import annotations

import time

import jax

from jaxrobust import figures

from ..common.cli import command_line
from ..common.options import distinct
from ..common.runner import judge, run_rows, setup
from ..common.tables import publish, summarize, told
from .config import Config, settings_of
from .methods import methods
from .plots import figure_1, figure_2
from .published import COLUMNS, PUBLISHED


def main(config: Config) -> list[dict]:
    """Runs the study; returns the rows of its table."""
    began = time.perf_counter()
    options, settings = config.options, settings_of(config)
    for name, values in (("methods", config.methods), ("rho", settings.rho), ("nu", config.nu)):
        distinct(name, values)
    if not (config.methods or config.nu):
        raise ValueError("nothing to run: give at least one of --methods or --nu")
    dataset = options.load(settings)
    folder = options.folder("dale")
    outcomes = run_rows(
        methods(config, settings, dataset),
        settings,
        dataset,
        judge=judge(settings, selects=(config.select,)),
        **options.runs(folder),
    )
    table = summarize(outcomes, PUBLISHED.get(options.name), columns=COLUMNS)
    if jax.process_index() != 0:
        return table

    title = f"{setup(settings, dataset, options.seeds)}; {config.select} epoch"
    publish(folder / "table", title, table, about=options.about("dale", "DALE, Tables 1 and 2"))
    drawn = [folder / "table.md"]
    scatter = figure_1(settings, dataset, outcomes)
    if scatter is not None:
        drawn.append(figures.save_figure(scatter, folder / "figure1_perturbations.png"))
    rho = {row.name: row.rho for row in methods(config, settings, dataset) if row.rho is not None}
    for name, level in rho.items():
        first = next(o for o in outcomes if o.method == name)
        path = folder / f"figure2_{name.replace(' ', '_')}.png"
        drawn.append(figures.save_figure(figure_2(first, level), path))
    told(drawn, began)
    return table


if __name__ == "__main__":
    command_line(main, Config, __doc__)
