"""What a command looks at: a trained model, and the examples of a data set."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from jaxrobust import data
from jaxrobust.data import Dataset, Split

from . import own_data
from .trained import (
    Network,
    Trained,
    from_run,
    from_torch,
    recipe_of,
    released,
    run_config,
)


@dataclasses.dataclass(frozen=True)
class Subject:
    """One trained model and its data."""

    checkpoint: Path | None = None
    """Folder of a training run, such as those of `experiments.dale` or of your own call of
    `training.fit`."""
    pretrained: str | None = None
    """Released weights instead: a path to an .npz file, or its stem in --pretrained-dir."""
    pretrained_dir: Path = Path(".")
    torch_checkpoint: Path | None = None
    """A PyTorch network's weights instead: .pt, .pth, .safetensors, .npz; needs --architecture."""
    architecture: str | None = None
    """Network of --torch-checkpoint (resnet18, preact_resnet18, wide_resnet_28_10, ...), or of a
    --checkpoint whose config.json does not tell it: a name of `models.build`."""
    architecture_options: tuple[str, ...] = ()
    """Its options as NAME=VALUE, such as shortcut=raw, depth=40 or widths=[300,200]."""
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

    def load(self) -> tuple[Trained, Dataset]:
        """The model and the data set.

        Raises:
          FileNotFoundError, ValueError, CheckpointError: what is missing, contradictory or broken.
        """
        self._require_one_model()
        held = {} if self.checkpoint is None else run_config(self.checkpoint)
        dataset = self._dataset(held)
        options = dict(map(setting, self.architecture_options))
        if self.pretrained is not None:
            return released(self.pretrained, self.pretrained_dir, dataset), dataset
        if self.torch_checkpoint is None:
            name = self.architecture
            given = None if name is None else Network(name, options)
            return from_run(self.checkpoint, self.select, dataset, given), dataset
        trained = from_torch(
            self.torch_checkpoint,
            self.architecture,
            dataset,
            options=options,
            mean=self.mean,
            std=self.std,
            entry=self.entry,
        )
        return trained, dataset

    def examples(self, dataset: Dataset) -> Split:
        """The examples that are looked at."""
        return getattr(dataset, self.split)

    def name(self, dataset: Dataset) -> str:
        """Tells results of different models and data apart, in the name of a folder."""
        if self.pretrained:
            model = Path(self.pretrained).stem
        elif self.torch_checkpoint:
            model = f"{self.architecture}-{self.torch_checkpoint.stem}"
        else:
            # Script, recipe and run: runs of several studies share their last name.
            model = "-".join(self.checkpoint.resolve().parts[-3:])
        parts = [model, dataset.name, self.split]
        parts += [self.select] if self.checkpoint else []
        parts += [f"first{self.limit}"] if self.limit else []
        return "-".join(parts)

    def _require_one_model(self) -> None:
        given = (self.checkpoint, self.pretrained, self.torch_checkpoint)
        if sum(one is not None for one in given) != 1:
            raise ValueError(
                "give the model as one of --checkpoint RUN, --pretrained NAME and "
                "--torch-checkpoint FILE"
            )
        if self.torch_checkpoint is not None and self.architecture is None:
            raise ValueError("--torch-checkpoint FILE needs --architecture NAME")
        of_torch = (self.mean, self.std, self.entry)
        if self.torch_checkpoint is None and any(one is not None for one in of_torch):
            raise ValueError("--mean, --std and --entry need --torch-checkpoint")
        if self.pretrained is not None and self.architecture is not None:
            raise ValueError("--pretrained tells its network: leave --architecture away")
        if self.architecture_options and self.architecture is None:
            raise ValueError("--architecture-options are those of --architecture, which is missing")

    def _dataset(self, held: Mapping[str, Any]) -> Dataset:
        """The data set that the options name, or else the run's `config.json`, `held`."""
        # The draw of the held-out images depends on their number alone.
        recipe = recipe_of(held)
        told = (None if held else 0) if recipe is None else recipe.get("validation", 0)
        held_out = told if self.validation is None else self.validation
        if self.split != "test" and held_out is None:
            raise ValueError(
                f"{self.checkpoint} does not tell how many training images it held out: give their "
                "number with --validation"
            )
        if self.split == "validation" and not held_out:
            raise ValueError("this model held out no training images: use --split test or train")
        kept = {"validation": held_out or 0, "limit": self.limit}
        if self.data is not None:
            size = held.get("image_size") if self.image_size is None else self.image_size
            return own_data.read(self.data, size=size, **kept)
        if self.dataset is None and "data" in held:
            raise ValueError(
                f"{self.checkpoint} was trained on your own data, {held['data']}: give it with "
                "--data"
            )
        name = self.dataset or held.get("dataset") or held.get("fit", {}).get("dataset")
        if name is None:
            given = "these weights do" if self.checkpoint is None else f"{self.checkpoint} does"
            raise ValueError(f"{given} not name the data: give --dataset or --data")
        return data.load(name, data_dir=self.data_dir, **kept)


def setting(text: str) -> tuple[str, Any]:
    """The name and the value of "depth=28", "features=(4, 6)" or "shortcut=raw"."""
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise ValueError(f"--architecture-options are NAME=VALUE, such as depth=40, got {text!r}")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value
