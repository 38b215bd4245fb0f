"""Data sets of one's own, from arrays in memory or in an .npz file."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np

from jaxrobust import archive, checks
from jaxrobust.data.dataset import assemble
from jaxrobust.data.types import Dataset, Source, Split

Pair = tuple[Any, Any]
"""Examples and their labels."""

TEST_SHARE = 5
"""One example of so many is held out for testing, where files hold no test split."""

KEYS = {
    "train": (("x_train", "y_train"), ("x", "y")),
    "test": (("x_test", "y_test"),),
    "validation": (("x_validation", "y_validation"), ("x_val", "y_val")),
}
"""Names of arrays in an .npz file, by split."""


def from_arrays(
    x: Any,
    y: Any,
    *,
    test: Pair | int = 0,
    validation: Pair | int = 0,
    num_classes: int | None = None,
    name: str = "arrays",
    label: str | None = None,
    seed: int = 0,
    limit: int | None = None,
) -> Dataset:
    """Makes a data set of arrays, from NumPy, JAX or PyTorch on the CPU.

    Bytes are images and count as x / 255. Floats are taken as they are, in whatever finite box they
    lie: images in [0, 1] or [-1, 1], or vectors of features. Tell threat sets the box, such as
    `threats.Linf(0.1, lower=-1, upper=1)`, or `lower=-inf, upper=inf` where there is none; training
    and evaluation refuse examples outside of it.

    Args:
      x: training examples `[N, ...]`, uint8 or floats; channels are last. `[N, H, W]` is read as
        gray images `[N, H, W, 1]`.
      y: their labels, integers `[N]` or `[N, 1]`, from 0.
      test: test examples and labels in the same form, or how many to hold out from `x` (0: no test
        split).
      validation: the same for the examples that training is validated on.
      num_classes: the number of classes (default: the largest label of all splits, plus 1).
      name: what to call the data set, in errors and in run folders.
      label: a name to print beside figures (default: `name`).
      seed: the seed of the draws of what is held out, without regard to class; the examples that
        stay keep their order.
      limit: keep at most so many examples of each split (the first ones, after the draws).

    Returns:
      The data set: uint8 or float32 examples `[N, ...]` and int32 labels `[N]`.

    Raises:
      ValueError: examples or labels of an unsuitable type or shape, floats that are not finite,
        splits that differ in shape or type, or an impossible number to hold out.

    Example:
      >>> import numpy as np
      >>> from jaxrobust import data
      >>> x = np.linspace(-1, 1, 60).reshape(20, 3)
      >>> own = data.from_arrays(x, np.arange(20) % 2, test=5, name="waves")
      >>> own.shape, own.num_classes, own.train.size, own.test.size
      ((3,), 2, 15, 5)
    """
    pairs = {"train": _pair("train", name, x, y)}
    for title, given in (("test", test), ("validation", validation)):
        if isinstance(given, tuple):
            if len(given) != 2:
                raise ValueError(f"{title} is (x, y) or a number, got a tuple of {len(given)}")
            pairs[title] = _pair(title, name, *given)
        else:
            checks.at_least(title, given, 0)
    drawn = 0 if isinstance(test, tuple) else test
    whole = pairs["train"]
    if drawn >= whole.size:
        raise ValueError(
            f"test={drawn} leaves no training examples: {name!r} has {whole.size}; hold out at "
            f"most {whole.size - 1}"
        )
    if drawn:
        order = np.random.default_rng(seed).permutation(whole.size)
        kept, held_out = np.sort(order[drawn:]), np.sort(order[:drawn])
        pairs["train"] = Split(whole.x[kept], whole.y[kept])
        pairs["test"] = Split(whole.x[held_out], whole.y[held_out])
    pairs.setdefault("test", Split(whole.x[:0], whole.y[:0]))

    def read(split: str, indices: np.ndarray) -> Split:
        held = pairs[split]
        return Split(held.x[indices], held.y[indices])

    found = max(int(part.y.max(initial=0)) for part in pairs.values()) + 1
    classes = found if num_classes is None else num_classes
    sizes = pairs["train"].size, pairs["test"].size
    source = Source(name if label is None else label, classes, *sizes, read)
    held = 0 if isinstance(validation, tuple) else validation
    dataset = assemble(name, source, validation=held, seed=seed, limit=limit)
    if "validation" in pairs:
        dataset = dataclasses.replace(dataset, validation=pairs["validation"].first(limit))
    return dataset


def from_npz(
    path: str | os.PathLike[str],
    *,
    test: int | None = None,
    validation: int = 0,
    num_classes: int | None = None,
    name: str | None = None,
    seed: int = 0,
    limit: int | None = None,
) -> Dataset:
    """Reads a data set from an .npz file, such as Keras' mnist.npz.

    Args:
      path: a file with the arrays `x_train` and `y_train` (or `x` and `y`), and perhaps `x_test`,
        `y_test`, `x_validation` and `y_validation` (or `x_val` and `y_val`), in the form that
        `from_arrays` takes. Other arrays are left alone.
      test: how many examples to hold out for testing, where the file holds no test split (default:
        a fifth).
      validation: how many training examples to hold out, where the file holds no such split.
      num_classes, seed, limit: see `from_arrays`.
      name: what to call the data set (default: the file's stem).

    Returns:
      The data set, as that of `from_arrays`.

    Raises:
      FileNotFoundError: no such file.
      ValueError: the file is no archive of arrays of numbers, or holds no training examples; or as
        `from_arrays`.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    told = archive.declared(path)
    keys = {
        split: pair for split, pairs in KEYS.items() for pair in pairs if told.keys() >= {*pair}
    }
    if "train" not in keys:
        raise ValueError(
            f"{path} holds no training examples: it needs the arrays x_train and y_train, or x and "
            f"y, and has: {', '.join(sorted(told)) or 'none'}"
        )
    wanted = {part for pair in keys.values() for part in pair}
    held = archive.read(path, {part: told[part] for part in wanted})
    pairs = {split: (held[x], held[y]) for split, (x, y) in keys.items()}
    x, y = pairs.pop("train")
    return from_arrays(
        x,
        y,
        test=pairs.get("test") or (len(y) // TEST_SHARE if test is None else test),
        validation=pairs.get("validation") or validation,
        num_classes=num_classes,
        name=path.stem if name is None else name,
        seed=seed,
        limit=limit,
    )


def _pair(title: str, name: str, x: Any, y: Any) -> Split:
    """Examples and labels in the types and shapes of a `Dataset`."""
    where = f"the {title} split of {name!r}"
    x, y = np.asarray(x), np.asarray(y)
    if not x.ndim or not len(x):
        raise ValueError(f"{where} holds no examples: x has shape {x.shape}")
    if x.dtype != np.uint8:
        if x.dtype.kind != "f" and x.dtype.name != "bfloat16":
            raise ValueError(
                f"{where} must hold uint8 or floats, got {x.dtype}; write x.astype(np.uint8) for "
                "8-bit images, or x.astype(np.float32)"
            )
        x = x.astype(np.float32)
    if x.ndim == 3:
        x = x[..., None]
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.shape[:1] != x.shape[:1]:
        raise ValueError(
            f"{where} has {len(x)} examples, but labels of shape {y.shape}; give one to each"
        )
    if y.dtype.kind not in "iu":
        raise ValueError(
            f"{where}: labels must be integers from 0, got {y.dtype}; number your own with "
            "np.unique(y, return_inverse=True)[1]"
        )
    return Split(x, y.astype(np.int32))
