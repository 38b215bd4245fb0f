"""Images that do not fit into memory: read, cut and batched while training runs, with Grain."""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any, Protocol, cast

import jax
import numpy as np
from PIL import Image

from jaxrobust import checks
from jaxrobust.data.batches import permutation, process_slice
from jaxrobust.data.crops import Box, center_box, random_box
from jaxrobust.data.tfds import open_prepared
from jaxrobust.data.types import Split
from jaxrobust.types import Batch

Cut = Callable[[int, Image.Image], Image.Image]
"""(index, image) -> the part of it that is seen."""


class Records(Protocol):
    """Random access to labeled images."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        """`{"image": PNG or JPEG bytes, or uint8 [H, W, 3], "label": int}`; sizes may differ."""
        ...


@dataclasses.dataclass(frozen=True)
class First:
    """The first so many records."""

    records: Records
    count: int

    def __len__(self) -> int:
        return min(self.count, len(self.records))

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return self.records[index]


@dataclasses.dataclass(frozen=True, eq=False)
class Stream:
    """A set of color images read from its files whenever they are needed.

    Raises:
      ValueError: an impossible setting, or fewer than 2 classes; when images are read, one that is
        broken or labeled out of range, by its index.
    """

    name: str
    label: str
    """A label to print beside figures."""
    num_classes: int
    train: Records
    test: Records
    threads: int = 8
    """Decode and cut batches side by side, each a batch at a time (0: only when one is asked for).
    Images are the same for any number."""

    def __post_init__(self) -> None:
        checks.at_least("num_classes", self.num_classes, 2)
        checks.at_least("threads", self.threads, 0)

    @property
    def images(self) -> int:
        """Number of training images."""
        return len(self.train)

    def shape(self, size: int) -> tuple[int, ...]:
        """Of one image of `size` pixels on a side."""
        return size, size, 3

    def batches(self, seed: int, epoch: int, *, size: int, batch_size: int) -> Iterator[Batch]:
        """This process' share of the training batches of one epoch, on the host.

        In the order of `permutation`, every image cut and mirrored at random (`crops.random_box`)
        and scaled to `size` pixels on a side. A function of (seed, epoch) and of the number of
        processes alone, so that a run resumes at any epoch. Batches hold uint8 `[B, size, size, 3]`
        and int32 labels and indices, B being `batch_size` over the number of processes.
        """
        checks.at_least("size", size, 1)
        order = process_slice(
            permutation(seed, epoch, self.images, batch_size),
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )

        def cut(index: int, image: Image.Image) -> Image.Image:
            rng = np.random.default_rng((seed, epoch, index))
            image = _scaled(image, random_box(rng, *image.size), size)
            mirrored = rng.random() < 0.5
            return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else image

        return self._read(self.train, np.asarray(order), cut)

    def chunks(self, *, size: int, count: int) -> Iterator[Split]:
        """All test images in order, `count` at a time: `crops.center_box` scaled to `size`."""
        checks.at_least("size", size, 1)
        checks.at_least("count", count, 1)
        total = len(self.test)
        whole = total // count * count

        def cut(index: int, image: Image.Image) -> Image.Image:
            del index
            return _scaled(image, center_box(*image.size), size)

        for order in (np.arange(whole).reshape(-1, count), np.arange(whole, total)[None]):
            if order.size:
                for batch in self._read(self.test, order, cut):
                    yield Split(np.asarray(batch.x), np.asarray(batch.y))

    def _read(self, records: Records, order: np.ndarray, cut: Cut) -> Iterator[Batch]:
        def example(drawn: np.integer) -> Batch:
            index = int(drawn)
            try:
                row = records[index]
                image, label = cut(index, _decoded(row["image"])), int(row["label"])
            except Exception as error:
                # Foreign bytes fail in many ways: in the record, its message, or the picture.
                raise ValueError(
                    f"image {index} of {self.name!r} cannot be read "
                    f"({type(error).__name__}: {error}); prepare the set again"
                ) from error
            if not 0 <= label < self.num_classes:
                raise ValueError(
                    f"image {index} of {self.name!r} has the label {label}, but there are "
                    f"{self.num_classes} classes (0 to {self.num_classes - 1})"
                )
            # grain stacks NumPy's arrays, and batches stay on the host
            return Batch(*cast(Any, (np.asarray(image), np.int32(label), np.int32(index))))

        grain = _grain()
        batches = grain.MapDataset.source(order.reshape(-1)).map(example).batch(order.shape[1])
        ahead = max(1, 2 * self.threads)
        reading = grain.ReadOptions(num_threads=self.threads, prefetch_buffer_size=ahead)
        return iter(batches.to_iter_dataset(reading))


def open_stream(
    name: str,
    *,
    test_split: str = "test",
    data_dir: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    test_limit: int | None = None,
    threads: int = 8,
) -> Stream:
    """Opens a set that TFDS has prepared as array_record files, for example "imagenet2012".

    Nothing is read yet. Any image-classification set will do, of whatever sizes.

    Args:
      name: the TFDS name.
      test_split: the name of the split to evaluate on; ImageNet's is "validation".
      data_dir: see `jaxrobust.data.tfds.tfds`.
      limit, test_limit: keep at most so many images of the training or test split.
      threads: see `Stream`, at least 0.

    Returns:
      The stream. Its `batches` give uint8 training images `[B, size, size, 3]`, its `chunks` the
      test images in the same form, both with int32 labels `[B]`.

    Raises:
      ValueError: an empty `name`, `threads` below 0, a limit below 1, and what
        `jaxrobust.data.tfds.tfds` raises.
      FileNotFoundError: as `jaxrobust.data.tfds.tfds`.
    """
    checks.at_least("threads", threads, 0)
    for option, value in (("limit", limit), ("test_limit", test_limit)):
        if value is not None:
            checks.at_least(option, value, 1)
    found = open_prepared(name, ("train", test_split), data_dir=data_dir)
    train, test = (
        records if most is None else First(records, most)
        for records, most in (
            (found.sources["train"], limit),
            (found.sources[test_split], test_limit),
        )
    )
    return Stream(name, found.label, found.num_classes, train, test, threads)


def _decoded(image: bytes | np.ndarray) -> Image.Image:
    if isinstance(image, np.ndarray):
        return Image.fromarray(image).convert("RGB")
    # A few images of ImageNet are gray, CMYK, or PNG under the name of JPEG.
    return Image.open(io.BytesIO(image), formats=("PNG", "JPEG")).convert("RGB")


def _scaled(image: Image.Image, box: Box, size: int) -> Image.Image:
    return image.resize((size, size), Image.Resampling.BILINEAR, box=box)


def _grain() -> ModuleType:
    # Importing it takes about a second, which users of sets in memory need not spend.
    with checks.extra("data"):
        import grain
    return grain
