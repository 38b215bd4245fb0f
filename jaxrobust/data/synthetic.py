"""Made-up images whose robustness is known exactly, for tests and dry runs."""

from __future__ import annotations

import math

import numpy as np

from jaxrobust import checks
from jaxrobust.data.types import Source, Split

BRIGHT, DARK, NOISE = 192, 64, 32


def synthetic(
    *,
    train_size: int = 512,
    test_size: int = 128,
    classes: int = 4,
    shape: tuple[int, int, int] = (8, 8, 1),
    seed: int = 0,
) -> Source:
    """Images of disjoint bright patterns, linearly separable with a margin that is known.

    Every class owns an equal share of the pixels, drawn once from `seed` (pixels left over
    belong to none). An image of class k is 192 on the pixels of k and 64 elsewhere, plus whole
    uniform noise in [-32, 32]. The linear classifier that averages each class's pixels is
    therefore right on every image and stays right inside every l-infinity ball of radius below
    32/255: the two means start at least 64 apart and each moves by less than 32. Classes are
    balanced to within one example and in random order.

    Args:
      train_size: the number of training images.
      test_size: the number of test images.
      classes: the number of classes.
      shape: height, width and channels of an image.
      seed: the seed of patterns, labels and noise.

    Returns:
      The source, for `assemble`. It reads uint8 images `[n, *shape]` and int32 labels `[n]` of the
      splits "train" and "test".

    Raises:
      ValueError: fewer than 2 classes, an empty split, or fewer pixels than classes.
    """
    checks.at_least("classes", classes, 2)
    checks.at_least("train_size", train_size, 1)
    checks.at_least("test_size", test_size, 1)
    pixels = math.prod(shape)
    if pixels < classes:
        raise ValueError(f"{classes} classes need as many pixels, but shape {shape} has {pixels}")

    rng = np.random.default_rng(seed)
    share = pixels // classes
    owner = np.full(pixels, -1)
    owner[: share * classes] = np.repeat(np.arange(classes), share)
    owner = rng.permutation(owner)

    def draw(size: int) -> Split:
        y = rng.permutation(np.arange(size) % classes).astype(np.int32)
        noise = rng.integers(-NOISE, NOISE, (size, pixels), endpoint=True)
        x = np.where(owner == y[:, None], BRIGHT, DARK) + noise
        return Split(x.astype(np.uint8).reshape(size, *shape), y)

    splits = {"train": draw(train_size), "test": draw(test_size)}

    def read(split: str, indices: np.ndarray) -> Split:
        x, y = splits[split]
        return Split(x[indices], y[indices])

    return Source("Synthetic", classes, train_size, test_size, read)
