"""The options that every study's command takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from experiments.common.recipes import Recipe, Recipes, recipe
from jaxrobust import checks, data
from jaxrobust.data import Dataset


@dataclasses.dataclass(frozen=True)
class Options:
    """What is trained on, how long, and where the results go; None leaves it to the preset."""

    dataset: str = "digits"
    """digits, or a TFDS image-classification set: mnist, fashion_mnist, cifar10, cifar100, ..."""
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
        own = ("autoattack", "epochs", "batch_size", "learning_rate", "model", "dtype", "start")
        given = {name: getattr(self, name) for name in own}
        return recipe(self.dataset, self.preset, recipes, **given, **changes)

    def load(self, settings: Recipe) -> Dataset:
        """The data set, with the recipe's images held out."""
        dataset = data.load(
            self.dataset,
            data_dir=self.data_dir,
            validation=settings.validation,
            limit=self.limit,
        )
        if self.test_limit is None:
            return dataset
        checks.at_least("test_limit", self.test_limit, 1)
        return dataclasses.replace(dataset, test=dataset.test.first(self.test_limit))

    def folder(self, script: str) -> Path:
        """Where the script of that name puts the results of this data set and preset."""
        return (self.out or Path("runs") / script) / f"{self.dataset}-{self.preset}"

    def about(self, script: str, source: str) -> Mapping[str, str]:
        """What `experiments.summary` tells a table by: its script, data set, preset and source."""
        return {
            "script": script,
            "dataset": self.dataset,
            "preset": self.preset,
            "source": source,
        }

    def identity(self) -> Mapping[str, Any]:
        """What, beside recipe and method, tells one run of a study from another."""
        return {"dataset": self.dataset, "limit": self.limit}

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
