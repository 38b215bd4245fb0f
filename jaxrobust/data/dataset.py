"""From a name, or parts, to a data set in memory."""

from __future__ import annotations

import dataclasses
import os

import numpy as np

from jaxrobust import checks
from jaxrobust.data.digits import digits
from jaxrobust.data.synthetic import synthetic
from jaxrobust.data.tfds import tfds
from jaxrobust.data.types import Dataset, Source, Split

EMBEDDED = {"digits": digits, "synthetic": synthetic}


def load(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    validation: int = 0,
    seed: int = 0,
    limit: int | None = None,
) -> Dataset:
    """Reads a data set into memory by its name.

    Names: "digits" (scikit-learn's 8x8 digits, needs no files), "synthetic" (separable made-up
    images, needs no files), and every image-classification set of TensorFlow Datasets, read
    without TensorFlow: "mnist", "fashion_mnist", "kmnist", "cifar10", "cifar100",
    "svhn_cropped", ... A TFDS set keeps the order in which it is stored, which is not the order
    of the original files: TFDS shuffles when it prepares a set.

    Args:
      name: the name of the data set, one of those above.
      data_dir: folder of prepared TFDS sets; see `jaxrobust.data.tfds.tfds`.
      validation: number of training images to hold out, drawn without regard to class; the
        images that stay keep their order.
      seed: the seed of that draw, and of nothing else.
      limit: keep at most so many images of each split (the first ones, after the draw); only
        these are decoded.

    Returns:
      The data set, in NumPy arrays on the host. Its splits `train`, `validation` (empty without
      images held out) and `test` hold uint8 images `[N, H, W, C]` and int32 labels `[N]`.

    Raises:
      ValueError: unknown name, impossible `validation` or `limit`, or an unsuitable set.
      FileNotFoundError: a TFDS set that is not prepared in `data_dir`.
    """
    source = EMBEDDED[name]() if name in EMBEDDED else tfds(name, data_dir=data_dir)
    return assemble(name, source, validation=validation, seed=seed, limit=limit)


def assemble(
    name: str, source: Source, *, validation: int = 0, seed: int = 0, limit: int | None = None
) -> Dataset:
    """Draws the validation split and reads all three; `load` for a source of your own.

    Args:
      name: what to call the data set, in errors too.
      source: the images, not read yet.
      validation, seed, limit: as in `load`.

    Returns:
      The data set in memory, with arrays as those of `load` if the source reads such.

    Raises:
      ValueError: impossible `validation` or `limit`, or an unsuitable set, as in `load`.
    """
    checks.at_least("validation", validation, 0)
    if limit is not None:
        checks.at_least("limit", limit, 1)
    if validation >= source.train_size:
        raise ValueError(
            f"validation={validation} leaves no training images: {name!r} has "
            f"{source.train_size}; ask for at most {source.train_size - 1}"
        )
    order = np.random.default_rng(seed).permutation(source.train_size)
    held_out, kept = np.sort(order[:validation]), np.sort(order[validation:])
    return Dataset(
        name=name,
        label=source.label,
        num_classes=source.num_classes,
        train=source.read("train", kept[:limit]),
        validation=source.read("train", held_out[:limit]),
        test=source.read("test", np.arange(source.test_size)[:limit]),
    )


def pseudo_labeled(dataset: Dataset, x: np.ndarray, y: np.ndarray) -> Dataset:
    """Adds training images whose labels a classifier gave.

    For semi-supervised training (Carmon et al. 2019; Wong's thesis, section 4.4.3): `training.fit`
    then fills one half of every batch from the labeled images and the other from these, and an
    epoch is one pass over the labeled ones, so it takes twice the steps. Validation and test splits
    stay. Called again, it adds to the pseudo-labeled part.

    Args:
      dataset: a data set with at least one labeled training image.
      x: the further images `[M, ...]`, of the type and shape of the labeled ones, M at least 1.
      y: their pseudo-labels, integers `[M]`.

    Returns:
      A new data set, whose N training images are followed by the M further ones in `train`: images
      `[N + M, ...]` and labels `[N + M]`, of the dtypes before. Its `labeled` counts the
      labeled images, which come first, and its `label` tells how many were added.

    Raises:
      ValueError: images of another type or shape, labels out of range, or no images.
    """
    added = Split(np.asarray(x), np.asarray(y))
    dataset.check("pseudo-labeled", added)
    checks.at_least("number of pseudo-labeled images", added.size, 1)
    labeled = dataset.train.size if dataset.labeled is None else dataset.labeled
    train = Split(
        np.concatenate([dataset.train.x, added.x]),
        np.concatenate([dataset.train.y, added.y.astype(dataset.train.y.dtype)]),
    )
    return dataclasses.replace(
        dataset,
        label=f"{dataset.label} + {added.size} pseudo-labeled",
        train=train,
        labeled=labeled,
    )
