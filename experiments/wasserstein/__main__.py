r"""Wasserstein adversarial examples: section 5.2 of Wong's thesis.

    python -m experiments.wasserstein
    python -m experiments.wasserstein --preset mnist --pretrained-dir weights --limit 200
    python -m experiments.wasserstein --preset mnist --pretrained-dir weights --limit 40 \
        --models standard linf --lam 1 10 100 500 1000 --p 1 2 3 --size 3 5 7
    python -m experiments.wasserstein --preset mnist-train
    python -m experiments.wasserstein --preset cifar10

quick trains a standard and an adversarially trained network on digits and attacks both; mnist
attacks the released models; mnist-train and cifar10 train with the thesis' settings (a GPU). Every
batch is saved when it ends: run the same command again after an interruption, or with sweeps added.
"""

from __future__ import annotations

import time
from typing import Any

import jax
from rich.console import Console

from jaxrobust import figures
from jaxrobust.data import Dataset

from ..common.cli import command_line
from ..common.runner import study
from ..common.tables import publish
from . import plots, reference
from .config import Config, load, results_folder, setting
from .measure import Run, broken, distances
from .recipes import Setting
from .subjects import Subject, released_subjects, trained_subjects
from .tables import (
    by_size,
    costly_rows,
    described,
    named_rows,
    sweep,
    table,
    warnings,
)


def subjects(config: Config, chosen: Setting, dataset: Dataset) -> list[Subject]:
    """The models to attack."""
    if config.preset == "mnist":
        return released_subjects(chosen.models, config.pretrained_dir, dataset, chosen.limit)
    return trained_subjects(
        chosen.models,
        chosen,
        study(chosen.recipe, dataset),
        chosen.limit,
        seed=config.seed,
        folder=config.out / config.preset,
        progress=config.progress,
    )


def main(config: Config) -> list[dict[str, Any]]:
    """Runs the study; returns the rows of its table."""
    began = time.perf_counter()
    chosen = setting(config)
    dataset = load(config, chosen)
    models = subjects(config, chosen, dataset)
    folder = results_folder(config, chosen)
    run = Run(chosen, folder, config.seed, config.batch_size, config.progress)
    results = [broken(run, subject, chosen.plans) for subject in models]
    tables = {
        "table": table(run, results),
        "distances": [row for b in results for row in distances(b, config.exact)],
    }
    drawn = {
        "figure2_perturbation": plots.figure_2(run, results[0]),
        "figure3_examples": plots.figure_3(results, config.columns),
        "figure4_curves": plots.figure_4(results),
    }
    variants = sweep(run, models[0], config.lam, config.p) if config.lam or config.p else []
    tables["plan_costs"] = costly_rows([*results, *variants], chosen.radii)
    if config.reference_dir is not None:
        compared = [reference.beside(b, config.reference_dir) for b in [*results, *variants]]
        tables["reference"] = [row for row in compared if row is not None]
    if variants:
        tables["sweep"] = named_rows(variants, chosen.radii)
        drawn["figure7_sweep"] = plots.figure_7(variants)
    windows = by_size(run, models, config.size)
    if windows:
        tables["sizes"] = named_rows(windows, chosen.radii)
        drawn["figure8_sizes"] = plots.figure_8(windows)
    if jax.process_index() == 0:
        title = described(run, dataset)
        for name, rows in tables.items():
            if rows:
                publish(folder / name, title if name == "table" else f"{name}; {title}", rows)
        console = Console()
        for line in warnings([*results, *variants, *windows]):
            console.print(line, soft_wrap=True, markup=False)
        for name, figure in drawn.items():
            if figure is not None:
                path = figures.save_figure(figure, folder / f"{name}.png")
                console.print(f"wrote {path}", soft_wrap=True)
        took = time.perf_counter() - began
        console.print(f"{took:.0f} s on {jax.device_count()} device(s)")
    return tables["table"]


if __name__ == "__main__":
    command_line(main, Config, __doc__)
