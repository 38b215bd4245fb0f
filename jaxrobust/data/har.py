"""Human activity recognition from the published text files."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from jaxrobust.data.arrays import from_arrays
from jaxrobust.data.types import Dataset

ACTIVITIES = 6
"""Walking, upstairs, downstairs, sitting, standing and laying: labels 1 to 6 in the files."""

ROUNDING = 1e-6


def from_har(
    folder: str | os.PathLike[str],
    *,
    scaled: bool = True,
    validation: int = 0,
    seed: int = 0,
    limit: int | None = None,
) -> Dataset:
    """Reads the smartphone data set of Anguita et al. (2013) from its text files.

    It is the set "Human Activity Recognition Using Smartphones" of the UCI repository, which
    unpacks to a folder "UCI HAR Dataset": 561 features of 7,352 windows to train on and of 2,947 to
    test on, from other persons.

    Args:
      folder: that folder, which holds `train/X_train.txt`, `train/y_train.txt`, `test/X_test.txt`
        and `test/y_test.txt`, or one that holds the four files themselves.
      scaled: features in [0, 1], as threat sets expect by default, instead of the files' [-1, 1];
        a radius is then half as large as in the files' units.
      validation, seed, limit: see `from_arrays`.

    Returns:
      The data set: float32 vectors `[N, 561]`, and int32 labels from 0 to 5, the files' less 1.

    Raises:
      FileNotFoundError: no such folder, or a file that it lacks.
      ValueError: files that hold something else than rows of numbers, one label a row, features in
        [-1, 1] and labels from 1 to 6.

    Example:
      >>> import tempfile, pathlib
      >>> from jaxrobust import data
      >>> folder = pathlib.Path(tempfile.mkdtemp())
      >>> for split in ("train", "test"):
      ...     _ = (folder / f"X_{split}.txt").write_text("-1.0 0.5\\n0.0 1.0\\n")
      ...     _ = (folder / f"y_{split}.txt").write_text("1\\n6\\n")
      >>> har = data.from_har(folder)
      >>> har.train.x.tolist(), har.train.y.tolist()
      ([[0.0, 0.75], [0.5, 1.0]], [0, 5])
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"there is no folder {folder}; unpack the UCI repository's set of human activity "
            "recognition using smartphones and name its folder 'UCI HAR Dataset'"
        )
    train, test = (_split(folder, split, scaled) for split in ("train", "test"))
    if train[0].shape[1] != test[0].shape[1]:
        raise ValueError(
            f"{folder}: the training examples have {train[0].shape[1]} features and the test "
            f"examples {test[0].shape[1]}; take both from one release"
        )
    return from_arrays(
        *train,
        test=test,
        validation=validation,
        num_classes=ACTIVITIES,
        name="har",
        label="HAR",
        seed=seed,
        limit=limit,
    )


def _split(folder: Path, split: str, scaled: bool) -> tuple[np.ndarray, np.ndarray]:
    """Features and labels of a split."""
    x = _table(_found(folder, split, f"X_{split}.txt"))
    file = _found(folder, split, f"y_{split}.txt")
    y = _table(file)[:, 0].astype(np.int32)
    if len(x) != len(y):
        raise ValueError(f"{file} holds {len(y)} labels for {len(x)} examples")
    if y.min() < 1 or y.max() > ACTIVITIES:
        raise ValueError(f"{file} holds labels from {y.min()} to {y.max()}, expected 1 to 6")
    largest = np.abs(x).max()
    if not largest <= 1 + ROUNDING:
        raise ValueError(
            f"X_{split}.txt holds features up to {largest:g}; the published ones lie in [-1, 1]: "
            "take the files as they are unpacked"
        )
    x = np.clip(x, -1, 1)
    return ((x + 1) / 2 if scaled else x), y - 1


def _found(folder: Path, split: str, name: str) -> Path:
    """The file, in the folder or in that of its split."""
    for path in (folder / split / name, folder / name):
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"{folder} holds no {split}/{name}; name the folder that the set unpacks to, which has "
        "train and test in it"
    )


def _table(path: Path) -> np.ndarray:
    """The rows of numbers of a file."""
    if not path.read_text(encoding="utf-8").strip():
        raise ValueError(f"{path} is empty")
    try:
        return np.loadtxt(path, dtype=np.float64, ndmin=2).astype(np.float32)
    except ValueError as error:
        raise ValueError(f"{path} holds something else than rows of numbers: {error}") from error
