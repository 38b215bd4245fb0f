"""Robust overfitting and its remedies: Wong's thesis, sections 4.3 and 4.4.

    python -m experiments.overfitting
    python -m experiments.overfitting --part schedules
    python -m experiments.overfitting --part trades
    python -m experiments.overfitting --methods pgd early_stopping cutout --cutout 2 4 6
    python -m experiments.overfitting --dataset cifar10 --preset paper --seeds 0
    python -m experiments.overfitting --dataset svhn_cropped --preset paper --learning-rate 0.01

Every row is PGD training with one thing changed; PGD and clean error on test images are measured
after every epoch. Final is the mean of the last five epochs; best the epoch of lowest robust test
error, which nobody can choose without test labels; early stopping chooses by the images held out
of training. Every run resumes from its folder.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import jax

from jaxrobust import figures
from jaxrobust.data import Dataset, Split

from ..common import curves
from ..common.cli import command_line
from ..common.long_runs import images_of, in_norm, split_off
from ..common.probe import probe_of, watched
from ..common.recipes import Recipe
from ..common.rows import Method, Outcome
from ..common.runner import judge, run_rows, setup, table_attacks
from ..common.tables import publish, summarize, told
from . import methods as rows
from .config import Config, check
from .parts import part_of
from .published import PUBLISHED
from .semi_supervised import with_pseudo_labels
from .tables import table_of


def trained(
    methods: Sequence[Method],
    settings: Recipe,
    dataset: Dataset,
    *,
    config: Config,
    folder: Path,
) -> list[Outcome]:
    """Every row from every seed, each probed and judged in its own ball."""
    outcomes = []
    for method in rows.reflected(methods, settings):
        own = method.recipe(settings)
        columns = {name: a for name, a in table_attacks(own).items() if name != "FGSM"}
        outcomes += run_rows(
            [method],
            settings,
            dataset,
            judge=judge(own, columns=columns, selects=("last", "best")),
            probe=probe_of(own, watched(method.dataset or dataset, config.probe_images)),
            **config.options.runs(folder, probe_images=config.probe_images),
        )
    return outcomes


def main(config: Config) -> list[dict]:
    """Runs a part of the study; returns the rows of its table of errors."""
    began = time.perf_counter()
    options = config.options
    check(config)
    settings = options.recipe(in_norm(config.norm), attack_mode=config.attack_mode)
    dataset, rest = split_off(options.load(settings), images_of(options, config.images))
    pool = Split(*(part[: config.unlabeled] for part in rest))
    folder = options.folder("overfitting") / config.norm

    def label() -> Dataset:
        return with_pseudo_labels(
            dataset,
            pool,
            settings,
            **options.runs(folder, probe_images=config.probe_images) | {"seeds": options.seeds[:1]},
        )

    part = part_of(config, settings, dataset, pool, label)
    outcomes = trained(part.methods, settings, dataset, config=config, folder=folder)
    published = PUBLISHED.get((options.name, config.norm), {})
    table = table_of(part.shown, outcomes, published)
    if jax.process_index() != 0:
        return table

    title = setup(settings, dataset, options.seeds, part.methods)
    about = options.about("overfitting", "Wong's thesis, sections 4.3 and 4.4")
    publish(folder / config.part, f"test errors; {title}", table, about=about)
    name = f"{config.part}_checkpoints"
    publish(
        folder / name,
        f"accuracies of the last epoch, and of the best on the images held out; {title}",
        summarize(outcomes),
        about=about,
    )
    # The rows of these parts do not share their decays.
    own = config.part in ("schedules", "trades")
    marks = () if own else curves.decays(settings)
    drawn = {
        f"{config.part}_curves": curves.learning_curves(outcomes, marks=marks),
        f"{config.part}_robust": curves.robust_errors(outcomes, marks=marks),
    }
    for family, figure in curves.hyperparameters(table).items():
        drawn[f"{config.part}_{family}"] = figure
    written = [figures.save_figure(f, folder / f"{n}.png") for n, f in drawn.items()]
    told([folder / f"{config.part}.md", folder / f"{name}.md", *written], began)
    return table


if __name__ == "__main__":
    command_line(main, Config, __doc__)
