"""Options, settings and recipes of the study."""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path
from typing import Any, Literal

import tyro

from experiments.common.attack_menu import Budget
from experiments.common.trained import Trained, from_run, from_torch, released, run_config
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
    torch_checkpoint: Path | None = None
    """A PyTorch network's weights instead: .pt, .pth, .safetensors, .npz; needs --architecture."""
    architecture: str | None = None
    """Network of --torch-checkpoint: resnet18, preact_resnet18, wide_resnet_28_10, ..."""
    architecture_options: tuple[str, ...] = ()
    """Its options as NAME=VALUE, such as shortcut=raw, or depth=40 width=2."""
    mean: tuple[float, ...] | None = None
    """What --torch-checkpoint subtracts from its input's channels, where the file does not say."""
    std: tuple[float, ...] | None = None
    """What it then divides them by."""
    entry: str | None = None
    """Key of --torch-checkpoint that holds the weights, where several do."""
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
    given = (config.checkpoint, config.pretrained, config.torch_checkpoint)
    if sum(one is not None for one in given) != 1:
        raise ValueError(
            "give the model as one of --checkpoint RUN, --pretrained NAME and "
            "--torch-checkpoint FILE"
        )
    if (config.torch_checkpoint is None) != (config.architecture is None):
        raise ValueError("--torch-checkpoint FILE and --architecture NAME belong together")
    of_torch = (config.mean, config.std, config.entry, config.architecture_options or None)
    if config.torch_checkpoint is None and any(one is not None for one in of_torch):
        raise ValueError(
            "--mean, --std, --entry and --architecture-options need --torch-checkpoint"
        )
    held = {} if config.checkpoint is None else run_config(config.checkpoint)
    name = config.dataset or held.get("dataset")
    if name is None:
        raise ValueError("these weights do not name their data: give --dataset")
    # The draw of the held-out images depends on their number alone.
    held_out = held.get("recipe", {}).get("validation", 0)
    if config.split == "validation" and not held_out:
        raise ValueError("this model held out no training images: use --split test or train")
    dataset = data.load(name, data_dir=config.data_dir, validation=held_out, limit=config.limit)
    if config.checkpoint is not None:
        return from_run(config.checkpoint, config.select, dataset), dataset
    if config.pretrained is not None:
        return released(config.pretrained, config.pretrained_dir, dataset), dataset
    return _torch_trained(config, dataset), dataset


def _torch_trained(config: Config, dataset: Dataset) -> Trained:
    return from_torch(
        config.torch_checkpoint,
        config.architecture,
        dataset,
        options=dict(map(_option, config.architecture_options)),
        mean=config.mean,
        std=config.std,
        entry=config.entry,
    )


def _option(text: str) -> tuple[str, Any]:
    """The name and the value of "depth=28", "features=(4, 6)" or "shortcut=raw"."""
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise ValueError(f"architecture-options are NAME=VALUE, such as depth=40, got {text!r}")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def default_folder(config: Config, dataset: Dataset) -> Path:
    """A folder whose name tells evaluations of different models, data or sets apart."""
    if config.pretrained:
        model = Path(config.pretrained).stem
    elif config.torch_checkpoint:
        model = f"{config.architecture}-{config.torch_checkpoint.stem}"
    else:
        # Script, recipe and run: runs of several studies share their last name.
        model = "-".join(config.checkpoint.resolve().parts[-3:])
    parts = [model, dataset.name, config.split, config.threat, config.eps]
    parts += [config.select] if config.checkpoint else []
    parts += [f"first{config.limit}"] if config.limit else []
    parts += ["individually"] if config.individually else []
    return Path("runs/evaluate") / "-".join(parts).replace("/", "_")
