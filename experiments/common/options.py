"""The options that every study's command takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from jaxrobust import checks, data
from jaxrobust.data import Dataset

from . import own_data
from .attack_menu import number
from .recipes import Recipe, Recipes, recipe, resized


@dataclasses.dataclass(frozen=True)
class Options:
    """What is trained on, how long, and where the results go; None leaves it to the preset."""

    dataset: str = "digits"
    """digits, or a TFDS image-classification set: mnist, fashion_mnist, cifar10, cifar100, ..."""
    data: Path | None = None
    """Your own data instead: an .npz file (x_train, y_train, x_test, y_test) of bytes or floats in
    [0, 1], or a folder of images by class. It is trained with the recipe of --dataset: digits' is a
    small network's; --eps, --model, --epochs, ... change it."""
    image_size: int | None = None
    """Cut and scale the images of a folder to so many pixels on a side."""
    preset: Literal["quick", "paper"] = "quick"
    """quick: small budgets. paper: the paper's settings."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """A run of every row from each; tables show mean and standard deviation."""
    out: Path | None = None
    """Folder of the results (default: one named after the script, under runs)."""
    data_dir: Path | None = None
    """Folder of prepared TFDS sets (default: the environment variable TFDS_DATA_DIR)."""
    limit: int | None = None
    """Keep at most so many images of each split."""
    test_limit: int | None = None
    """Keep at most so many test images."""
    autoattack: int | None = None
    """The first so many test images also face AutoAttack (default: the preset's; 0: none)."""
    validation: int | None = None
    """Training images to hold out (default: the preset's number)."""
    eps: str | None = None
    """Radius of the ball, a number or a fraction such as 8/255; step sizes go along with it
    (default: the preset's)."""
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    model: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    start: Literal["uniform", "gaussian", "clean"] | None = None
    """Start of training attacks of several steps, in all rows: uniform in the ball, x + 1e-3 N(0,
    I) as DALE's, TRADES' and MART's code, or the image (default: the preset's)."""
    progress: bool = True

    def recipe(self, recipes: Recipes, **changes: Any) -> Recipe:
        """The preset's recipe with these options and the `changes` that are not None.

        Raises:
          ValueError: a data set or a preset without a recipe, or a seed given twice or none.
        """
        distinct("seeds", self.seeds)
        if not self.seeds:
            raise ValueError("nothing to run: give at least one of --seeds")
        own = ("autoattack", "validation", "epochs", "batch_size", "learning_rate", "model")
        own += ("dtype", "start")
        given = {name: getattr(self, name) for name in own}
        found = recipe(self.dataset, self.preset, recipes, **given, **changes)
        return found if self.eps is None else resized(found, number(self.eps))

    @property
    def name(self) -> str:
        """What the data set is called."""
        return self.dataset if self.data is None else self.data.resolve().name.removesuffix(".npz")

    def load(self, settings: Recipe) -> Dataset:
        """The data set, with the recipe's images held out.

        Raises:
          ValueError, FileNotFoundError: what `data.load` or `own_data.read` raises; or vectors for
            a network of images.
        """
        kept = {"validation": settings.validation, "limit": self.limit}
        if self.data is None:
            dataset = data.load(self.dataset, data_dir=self.data_dir, **kept)
        else:
            dataset = own_data.read(self.data, size=self.image_size, **kept)
        if len(dataset.shape) == 1 and settings.model != "mlp":
            raise ValueError(
                f"{self.data} holds vectors, which the network {settings.model!r} does not take; "
                "give --model mlp"
            )
        if self.test_limit is None:
            return dataset
        checks.at_least("test_limit", self.test_limit, 1)
        return dataclasses.replace(dataset, test=dataset.test.first(self.test_limit))

    def folder(self, script: str) -> Path:
        """Where the script of that name puts the results of this data set and preset."""
        return (self.out or Path("runs") / script) / f"{self.name}-{self.preset}"

    def about(self, script: str, source: str) -> Mapping[str, str]:
        """What `experiments.summary` tells a table by: its script, data set, preset and source."""
        return {
            "script": script,
            "dataset": self.name,
            "preset": self.preset,
            "source": source,
        }

    def identity(self) -> Mapping[str, Any]:
        """What, beside recipe and method, tells one run of a study from another."""
        own = {} if self.data is None else {"data": self.data.name, "image_size": self.image_size}
        return {"dataset": self.name, "limit": self.limit, **own}

    def runs(self, folder: Path, **identity: Any) -> dict[str, Any]:
        """What these options tell `study.run_rows`, with what else tells the study's runs apart."""
        return {
            "seeds": self.seeds,
            "folder": folder,
            "identity": {**self.identity(), **identity},
            "progress": self.progress,
        }


def distinct(name: str, values: tuple[Any, ...]) -> None:
    """Raises ValueError where a list of options holds a value twice."""
    if len(set(values)) < len(values):
        raise ValueError(f"{name} holds a value twice: {' '.join(map(str, values))}")
