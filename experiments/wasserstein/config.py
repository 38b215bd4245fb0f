"""Options, settings and recipes of the study."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from jaxrobust import checks, data
from jaxrobust.data import Dataset

from ..common.reference import original_order
from .recipes import PRESETS, Setting
from .subjects import RELEASED, TRAINED


@dataclasses.dataclass(frozen=True)
class Config:
    """Attacks models with Wasserstein perturbations and prints accuracy against radius."""

    preset: Literal["quick", "mnist", "mnist-train", "cifar10"] = "quick"
    models: tuple[str, ...] | None = None
    """Any of standard, adversarial; and with the preset mnist binarized (its images binarized
    before they are perturbed, as in the released code), binarized-inside (after) and linf. The
    first one is that of the sweeps over --lam and --p (default: the preset's)."""
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
    """Steps of the attack in evaluation; fewer steps end at smaller radii."""
    train_steps: int | None = None
    """Steps of the attack in training; fewer steps take the same radii, each for a shorter
    while."""
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
        test = original_order(dataset.test, config.reference_dir)
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
