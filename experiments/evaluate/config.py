"""Options, settings and recipes of the study."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import tyro

from experiments.common import own_data
from experiments.common.attack_menu import Budget
from experiments.common.trained import (
    Network,
    Trained,
    from_run,
    from_torch,
    recipe_of,
    released,
    run_config,
)
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
    model: str | None = None
    """Network of a --checkpoint whose config.json does not tell it, such as that of your own call
    of `training.fit`: a name of `models.build`."""
    model_options: tuple[str, ...] = ()
    """Its options, such as widths=[300,200] or mean=[0.49,0.48,0.45]."""
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
    data: Path | None = None
    """Your own data instead: an .npz file, or a folder of images by class, as the studies take."""
    image_size: int | None = None
    """Cut and scale the images of a folder to so many pixels on a side."""
    data_dir: Path | None = None
    """Folder of prepared TFDS sets (default: the environment variable TFDS_DATA_DIR)."""
    split: Literal["test", "validation", "train"] = "test"
    """validation: the training images that --checkpoint held out; train: without those."""
    validation: int | None = None
    """Training images that --checkpoint held out, where its config.json does not tell."""
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
    save_examples: bool = False
    """Write the adversarial examples of every attack too, as report.npz."""
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
    dataset = examples(config, held)
    options = options_of("model-options", config.model_options)
    if options and config.model is None:
        raise ValueError("--model-options are those of --model NAME, which is missing")
    if config.model is not None and config.checkpoint is None:
        raise ValueError("--model is the network of a --checkpoint, which is missing")
    if config.checkpoint is not None:
        network = None if config.model is None else Network(config.model, options)
        return from_run(config.checkpoint, config.select, dataset, network), dataset
    if config.pretrained is not None:
        return released(config.pretrained, config.pretrained_dir, dataset), dataset
    return _torch_trained(config, dataset), dataset


def _torch_trained(config: Config, dataset: Dataset) -> Trained:
    return from_torch(
        config.torch_checkpoint,
        config.architecture,
        dataset,
        options=options_of("architecture-options", config.architecture_options),
        mean=config.mean,
        std=config.std,
        entry=config.entry,
    )


def examples(config: Config, held: Mapping[str, Any]) -> Dataset:
    """The data set that the options name, or else the run's `config.json`, `held`."""
    # The draw of the held-out images depends on their number alone.
    recipe = recipe_of(held)
    told = (None if held else 0) if recipe is None else recipe.get("validation", 0)
    held_out = told if config.validation is None else config.validation
    if config.split != "test" and held_out is None:
        raise ValueError(
            f"{config.checkpoint} does not tell how many training images it held out: give their "
            "number with --validation"
        )
    if config.split == "validation" and not held_out:
        raise ValueError("this model held out no training images: use --split test or train")
    kept = {"validation": held_out or 0, "limit": config.limit}
    if config.data is not None:
        size = held.get("image_size") if config.image_size is None else config.image_size
        return own_data.read(config.data, size=size, **kept)
    if config.dataset is None and "data" in held:
        raise ValueError(
            f"{config.checkpoint} was trained on your own data, {held['data']}: give it with --data"
        )
    name = config.dataset or held.get("dataset") or held.get("fit", {}).get("dataset")
    if name is None:
        raise ValueError("these weights do not name their data: give --dataset or --data")
    return data.load(name, data_dir=config.data_dir, **kept)


def options_of(flag: str, texts: Sequence[str]) -> dict[str, Any]:
    """The names and values of "depth=28", "features=(4, 6)" or "shortcut=raw".

    Raises:
      ValueError: another form; the message names the flag.
    """
    return dict(_option(flag, text) for text in texts)


def _option(flag: str, text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise ValueError(f"--{flag} are NAME=VALUE, such as depth=40, got {text!r}")
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
