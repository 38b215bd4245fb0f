"""BETA's experiments: Tables 1 and 2, Figure 1.

    python -m experiments.beta
    python -m experiments.beta --methods pgd beta10 --autoattack 0
    python -m experiments.beta --dataset cifar10 --preset paper --seeds 0

Table 1 judges the last epoch, and the best one by PGD accuracy on images held out. Table 2 sets
BETA, by several optimizers, beside AutoAttack. Figure 1 shows accuracies after every epoch. Every
run resumes from its folder.
"""

from __future__ import annotations

import time
from pathlib import Path

import jax

from jaxrobust import figures

from ..common import curves
from ..common.cli import command_line
from ..common.long_runs import images_of, split_off
from ..common.options import distinct
from ..common.probe import probe_of, require_probe, watched
from ..common.runner import judge, run_rows, setup
from ..common.tables import publish, summarize, told
from .config import BETA, Config
from .methods import columns, methods
from .plots import by_epoch
from .published import COLUMNS, PUBLISHED
from .tables import table_2


def main(config: Config) -> list[dict]:
    """Runs the study; returns the rows of Table 1."""
    began = time.perf_counter()
    options = config.options
    distinct("methods", config.methods)
    if not config.methods:
        raise ValueError("nothing to run: give at least one of --methods")
    require_probe(config.probe_images)
    settings = options.recipe(BETA)
    dataset, _ = split_off(options.load(settings), images_of(options, config.images))
    folder = options.folder("beta")
    outcomes = run_rows(
        methods(config, settings, dataset),
        settings,
        dataset,
        judge=judge(settings, columns=columns(settings), selects=("best", "last")),
        probe=probe_of(settings, watched(dataset, config.probe_images)),
        **options.runs(folder, probe_images=config.probe_images),
    )
    table = summarize(by_epoch(outcomes), PUBLISHED.get(options.name), columns=COLUMNS)
    aimed = table_2(
        outcomes, settings, dataset, select=config.select, folder=folder, progress=options.progress
    )
    if jax.process_index() != 0:
        return table

    title = setup(settings, dataset, options.seeds)
    about = options.about("beta", "BETA, Tables 1 and 2")
    publish(folder / "table", title, table, about=about)
    written: list[Path] = [folder / "table.md"]
    if aimed:
        told_2 = f"{config.select} epoch, first {settings.autoattack} test images; {title}"
        publish(folder / "table2", told_2, aimed, about=about)
        written.append(folder / "table2.md")
    figure_1 = curves.learning_curves(outcomes, marks=curves.decays(settings), error=False)
    written.append(figures.save_figure(figure_1, folder / "figure1.png"))
    told(written, began)
    return table


if __name__ == "__main__":
    command_line(main, Config, __doc__)
