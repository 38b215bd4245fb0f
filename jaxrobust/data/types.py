"""What a data set is to the rest of the library: labeled 8-bit images held in memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxrobust import checks


class Split(NamedTuple):
    """Labeled images on the host, in a fixed order."""

    x: np.ndarray
    """uint8 `[N, H, W, C]`, 0 to 255; `batches.to_float` makes model inputs of them."""
    y: np.ndarray
    """int32 `[N]`, 0 to `num_classes - 1`."""

    @property
    def size(self) -> int:
        """Number of examples N."""
        return len(self.y)

    def first(self, count: int | None) -> Split:
        """The first `count` examples; all of them for None."""
        return Split(self.x[:count], self.y[:count])


class Source(NamedTuple):
    """A data set not read yet, so that only the images asked for are ever decoded."""

    label: str
    num_classes: int
    train_size: int
    test_size: int
    read: Callable[[str, np.ndarray], Split]
    """`read("train" or "test", indices [n]) -> Split` of those images, in that order."""


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """An image-classification data set in host memory.

    `label` is the name to print beside figures; it says what the pixels are when they are not
    the published ones. `validation` may be empty (`[0, H, W, C]`). Images of all splits share
    one shape.

    Raises:
      ValueError: pixels are not uint8 `[N, H, W, C]`, a label lies outside
        `[0, num_classes)`, there are fewer than 2 classes, the splits differ in shape, or
        `labeled` is not a part of the training images.
    """

    name: str
    label: str
    num_classes: int
    train: Split
    validation: Split
    test: Split
    labeled: int | None = None
    """How many training images people labeled, the first ones; the others have pseudo-labels and
    fill half of every batch (`pseudo_labeled`). None: all of them, in batches of any kind."""

    def __post_init__(self) -> None:
        for title in ("train", "validation", "test"):
            self.check(title, getattr(self, title))
        if self.labeled is not None:
            checks.at_least("labeled", self.labeled, 1)
            if self.labeled >= self.train.size:
                raise ValueError(
                    f"labeled={self.labeled} leaves no pseudo-labeled images among the "
                    f"{self.train.size} of {self.name!r}; use labeled=None where all are labeled"
                )

    def check(self, title: str, split: Split) -> None:
        """Raises ValueError unless `split` holds labeled images like those of this data set."""
        x, y = split
        where = f"the {title} split of {self.name!r}"
        if x.dtype != np.uint8 or x.ndim != 4:
            raise ValueError(
                f"{where} must hold uint8 images [N, H, W, C], got {x.dtype} of shape {x.shape}"
            )
        if x.shape[1:] != self.shape:
            raise ValueError(
                f"{where} has images of shape {x.shape[1:]}, the train split {self.shape}"
            )
        try:
            checks.labels(y, count=len(x), num_classes=self.num_classes)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of one image."""
        height, width, channels = self.train.x.shape[1:]
        return height, width, channels
