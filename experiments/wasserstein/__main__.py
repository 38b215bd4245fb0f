"""Wasserstein adversarial examples: section 5.2 of Wong's thesis.

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

import dataclasses
import time
from pathlib import Path
from typing import Any, Literal

import jax
from rich.console import Console

from experiments.common.runner import command_line, study
from experiments.common.tables import publish
from experiments.wasserstein import plots, reference
from experiments.wasserstein.measure import Run, broken, distances
from experiments.wasserstein.recipes import PRESETS, Setting
from experiments.wasserstein.subjects import (
    RELEASED,
    TRAINED,
    Subject,
    released_subjects,
    trained_subjects,
)
from experiments.wasserstein.tables import (
    by_size,
    costly_rows,
    described,
    named_rows,
    sweep,
    table,
    warnings,
)
from jaxrobust import checks, data, figures
from jaxrobust.data import Dataset


@dataclasses.dataclass(frozen=True)
class Config:
    """Attacks models with Wasserstein perturbations and prints accuracy against radius."""

    preset: Literal["quick", "mnist", "mnist-train", "cifar10"] = "quick"
    models: tuple[str, ...] | None = None
    """Of standard, adversarial; and with the preset mnist binarized (its images binarized before
    they are perturbed, as in the released code), binarized-inside (after) and linf. The first one
    is that of the sweeps over --lam and --p (default: the preset's)."""
    pretrained_dir: Path | None = None
    """Folder of the released weights, for the preset mnist."""
    reference_dir: Path | None = None
    """Folder of the released code's radii on MNIST, to show beside ours; images then come in the
    original order."""
    limit: int | None = None
    """Attack the first so many test images (default: the preset's)."""
    train_limit: int | None = None
    """Train on the first so many images."""
    data_dir: Path | None = None
    """Folder of prepared TFDS sets (default: the environment variable TFDS_DATA_DIR)."""
    lam: tuple[float, ...] = ()
    """Entropic weights to sweep over, together with --p (Figure 5.7)."""
    p: tuple[float, ...] = ()
    """Powers of the distance to sweep over."""
    size: tuple[int, ...] = ()
    """Windows to sweep over, for all models (Figure 5.8)."""
    exact: int = 3
    """Images of each model whose exact distance is computed, by a linear program."""
    columns: int = 6
    """Images in Figure 5.3."""
    steps: int | None = None
    """Of the attack in evaluation; fewer steps end at smaller radii."""
    train_steps: int | None = None
    """Of the attack in training; fewer steps take the same radii, each for a shorter while."""
    epochs: int | None = None
    train_batch_size: int | None = None
    learning_rate: float | None = None
    seed: int = 0
    batch_size: int = 100
    """Images attacked at a time: all of them wait for the last one."""
    out: Path = Path("runs/wasserstein")
    progress: bool = True


def setting(config: Config) -> Setting:
    """The preset's setting with the options that are given.

    Raises:
      ValueError: an unknown model, an option of another preset, or an impossible number.
    """
    preset = PRESETS[config.preset]
    names = preset.models if config.models is None else config.models
    for name in names:
        checks.choice("model", name, RELEASED if config.preset == "mnist" else TRAINED)
    sweeps = {"lam": config.lam, "p": config.p, "size": config.size}
    for name, values in {"models": names, **sweeps}.items():
        if len(set(values)) < len(values):
            raise ValueError(f"{name} holds a value twice: {' '.join(map(str, values))}")
    for name, values in sweeps.items():
        for value in values:
            dataclasses.replace(preset.plans, **{name: value}).threat(preset.test.first)
    if not names:
        raise ValueError("nothing to attack: --models names none")
    if (config.preset == "mnist") != (config.pretrained_dir is not None):
        raise ValueError(
            "--pretrained-dir and --preset mnist belong together: the one attacks what the other "
            "holds; to train on MNIST instead, use --preset mnist-train"
        )
    if config.reference_dir is not None and preset.dataset != "mnist":
        raise ValueError(f"--reference-dir holds figures of MNIST, not of {preset.dataset}")
    limit = preset.limit if config.limit is None else config.limit
    for name, value in (("limit", limit), ("columns", config.columns)):
        checks.at_least(name, value, 1)
    checks.at_least("exact", config.exact, 0)
    train, test = preset.train, preset.test
    if config.train_steps is not None:
        every = max(1, train.every * config.train_steps // train.steps)
        train = dataclasses.replace(train, steps=config.train_steps, every=every)
    if config.steps is not None:
        test = dataclasses.replace(test, steps=config.steps)
    for growth in (train, test):
        growth.attack(preset.plans, preset.step_size)
    changes = {
        "epochs": config.epochs,
        "batch_size": config.train_batch_size,
        "learning_rate": config.learning_rate,
        "steps": config.train_steps,
        "eval_steps": config.steps,
    }
    changes = {name: value for name, value in changes.items() if value is not None}
    recipe = dataclasses.replace(preset.recipe, **changes)
    return dataclasses.replace(
        preset, models=tuple(names), limit=limit, train=train, test=test, recipe=recipe
    )


def load(config: Config, chosen: Setting) -> Dataset:
    """The data set: the training images asked for, and all test images."""
    dataset = data.load(chosen.dataset, data_dir=config.data_dir)
    if config.reference_dir is not None:
        test = reference.original_order(dataset.test, config.reference_dir)
        dataset = dataclasses.replace(dataset, test=test)
    if config.train_limit is not None:
        checks.at_least("train_limit", config.train_limit, 1)
        train = dataset.train.first(config.train_limit)
        dataset = dataclasses.replace(dataset, train=train)
    return dataset


def results_folder(config: Config, chosen: Setting) -> Path:
    """A folder whose name tells attacks on other images or of other length apart."""
    parts = [f"first{chosen.limit}", f"steps{chosen.test.steps}", f"seed{config.seed}"]
    parts += [] if config.reference_dir is None else ["original-order"]
    return config.out / config.preset / "-".join(parts)


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
