"""Options, settings and recipes of the study."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import tyro

from experiments.common.attack_menu import Budget
from experiments.common.trained import Trained, from_run, released, run_config
from jaxrobust import data
from jaxrobust.data import Dataset


@dataclasses.dataclass(frozen=True)
class Config:
    """Robust accuracies of one trained model."""

    checkpoint: Path | None = None
    """Folder of a training run, such as those of `experiments.dale`."""
    pretrained: str | None = None
    """Released weights instead: a path to an .npz file, or its stem in --pretrained-dir."""
    pretrained_dir: Path = Path(".")
    select: Literal["last", "best"] = "last"
    """Epoch of --checkpoint: the last one, or the best on held-out training images."""
    dataset: str | None = None
    """digits, mnist, cifar10, ... (default: the one that --checkpoint was trained on)."""
    data_dir: Path | None = None
    """Folder of prepared TFDS sets (default: the environment variable TFDS_DATA_DIR)."""
    split: Literal["test", "validation", "train"] = "test"
    """validation: the training images that --checkpoint held out; train: without those."""
    limit: int | None = None
    """Keep the first so many images."""
    threat: Literal["linf", "l2", "l1"] = "linf"
    eps: str = "8/255"
    """Radius in pixels of [0, 1]: a number or a fraction."""
    attacks: tuple[str, ...] = ("autoattack",)
    """Names with commas or spaces between, in their order; see above."""
    individually: bool = False
    """Run every attack on all images, not only on those that the attacks before it left."""
    budget: tyro.conf.OmitArgPrefixes[Budget] = dataclasses.field(default_factory=Budget)
    curve: tuple[str, ...] = ()
    """Radii at which to draw a robustness curve."""
    curve_attack: str = "pgd"
    """Attack of the curve; one that seeks the smallest perturbation runs once for all radii."""
    grid: int = 0
    """Draw so many adversarial images, of the attack that broke the most."""
    seed: int = 0
    batch_size: int = 500
    out: Path | None = None
    """Folder of the results (default: a name under runs/evaluate that says what is evaluated)."""
    progress: bool = True


def load(config: Config) -> tuple[Trained, Dataset]:
    """The model and the data set that the options name."""
    if (config.checkpoint is None) == (config.pretrained is None):
        raise ValueError("give the model as either --checkpoint RUN or --pretrained NAME")
    held = {} if config.checkpoint is None else run_config(config.checkpoint)
    name = config.dataset or held.get("dataset")
    if name is None:
        raise ValueError("--pretrained needs --dataset: released weights do not name their data")
    # The draw of the held-out images depends on their number alone.
    held_out = held.get("recipe", {}).get("validation", 0)
    if config.split == "validation" and not held_out:
        raise ValueError("this model held out no training images: use --split test or train")
    dataset = data.load(name, data_dir=config.data_dir, validation=held_out, limit=config.limit)
    if config.checkpoint is None:
        return released(config.pretrained, config.pretrained_dir, dataset), dataset
    return from_run(config.checkpoint, config.select, dataset), dataset


def default_folder(config: Config, dataset: Dataset) -> Path:
    """A folder whose name tells evaluations of different models, data or sets apart."""
    if config.pretrained:
        model = Path(config.pretrained).stem
    else:
        # Script, recipe and run: runs of several studies share their last name.
        model = "-".join(config.checkpoint.resolve().parts[-3:])
    parts = [model, dataset.name, config.split, config.threat, config.eps]
    parts += [config.select] if config.checkpoint else []
    parts += [f"first{config.limit}"] if config.limit else []
    parts += ["individually"] if config.individually else []
    return Path("runs/evaluate") / "-".join(parts).replace("/", "_")
