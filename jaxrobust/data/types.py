"""What a data set is to the rest of the library: labeled examples held in memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxrobust import checks


class Split(NamedTuple):
    """Labeled examples on the host, in a fixed order."""

    x: np.ndarray
    """`[N, ...]`: 8-bit images `[N, H, W, C]`, 0 to 255, or float32 images or vectors as models
    take them; `batches.to_inputs` makes model inputs of both."""
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
    """A data set not read yet, so that only the examples asked for are ever decoded."""

    label: str
    num_classes: int
    train_size: int
    test_size: int
    read: Callable[[str, np.ndarray], Split]
    """`read("train" or "test", indices [n]) -> Split` of those examples, in that order."""


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A classification data set in host memory; see `from_arrays` for one of your own.

    `label` is the name to print beside figures; it says what the pixels are when they are not
    the published ones. `validation` and `test` may be empty (`[0, ...]`). Examples of all splits
    share one shape and one type: uint8, which counts as x / 255, or float32, which is seen as it
    is. Floats may lie in any finite box; threat sets are told it by `lower` and `upper`.

    Raises:
      ValueError: examples are neither uint8 nor float32 `[N, ...]`, a float is not finite, a label
        lies outside `[0, num_classes)`, there are fewer than 2 classes, the splits differ in shape
        or type, or `labeled` is not a part of the training images.
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
        """Raises ValueError unless `split` holds labeled examples like those of this data set."""
        x, y = split
        where = f"the {title} split of {self.name!r}"
        if x.dtype not in (np.uint8, np.float32) or x.ndim < 2:
            raise ValueError(
                f"{where} must hold uint8 or float32 examples [N, ...], such as images "
                f"[N, H, W, C], got {x.dtype} of shape {x.shape}; data.from_arrays converts others"
            )
        if (x.shape[1:], x.dtype) != (self.shape, self.train.x.dtype):
            raise ValueError(
                f"{where} has examples of shape {x.shape[1:]} and type {x.dtype}, the train split "
                f"{self.shape} and {self.train.x.dtype}"
            )
        if x.dtype != np.uint8 and not np.isfinite(x).all():
            raise ValueError(
                f"{where} holds {int((~np.isfinite(x)).sum())} NaN or infinite values; "
                "drop or fill them"
            )
        try:
            checks.labels(y, count=len(x), num_classes=self.num_classes)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example: height, width and channels of an image, the length of a vector."""
        return self.train.x.shape[1:]
