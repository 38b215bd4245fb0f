"""Data sets of one's own, from a folder of images by class."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from jaxrobust import checks
from jaxrobust.data.arrays import TEST_SHARE
from jaxrobust.data.crops import center_box
from jaxrobust.data.dataset import assemble
from jaxrobust.data.types import Dataset, Source, Split

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "PPM")
"""What is read of them, whatever a file is called."""

GRAY, COLOR = {"1", "L"}, {"LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"}
"""Modes of Pillow with 8 bits a channel."""


class Picture(NamedTuple):
    """An image file that is not decoded yet."""

    path: Path
    label: int
    size: tuple[int, int]
    """Height and width."""
    gray: bool


def from_folder(
    path: str | os.PathLike[str],
    *,
    size: int | None = None,
    test: int | None = None,
    validation: int = 0,
    name: str | None = None,
    seed: int = 0,
    limit: int | None = None,
) -> Dataset:
    """Reads a data set from a folder that holds a sub-folder of images for each class.

    The classes are numbered in the sorted order of their sub-folders' names. The images lie in
    those sub-folders, or in those of `train/` and `test/` where `path` holds these two. Files that
    are no images (by their suffix) are left alone. Images are color unless all of them are gray.

    Args:
      path: the folder.
      size: scales every image's largest centered square to so many pixels on a side (default:
        images stay as they are, and must be of one size).
      test: how many images to hold out for testing, without a folder `test/` (default: a fifth).
      validation: how many training images to hold out.
      name: what to call the data set (default: the folder's name).
      seed: the seed of both draws, see `from_arrays`.
      limit: keep at most so many images of each split, drawn at random since the folder is sorted
        by class; only these are decoded.

    Returns:
      The data set, with uint8 images `[N, H, W, 1]` or `[N, H, W, 3]`.

    Raises:
      FileNotFoundError: no such folder.
      ValueError: no classes, a class without images, other classes in `test/` than in `train/`,
        images of several sizes without `size`, or one that cannot be read; the message names it.
    """
    path = Path(path)
    if not path.is_dir():
        raise FileNotFoundError(f"there is no folder {path}")
    if size is not None:
        checks.at_least("size", size, 1)
    split = all((path / part).is_dir() for part in ("train", "test"))
    roots = {"train": path / "train", "test": path / "test"} if split else {"train": path}
    classes = _classes(roots["train"])
    rng = np.random.default_rng(seed)
    parts = {part: _pictures(root, classes, rng) for part, root in roots.items()}
    if not split:
        whole = parts["train"]
        count = len(whole) // TEST_SHARE if test is None else test
        checks.at_least("test", count, 0)
        if count >= len(whole):
            raise ValueError(f"test={count} leaves no training images: {path} has {len(whole)}")
        parts = {"train": whole[count:], "test": whole[:count]}
    every = [picture for part in parts.values() for picture in part]
    shape = _shape(every, size)

    def read(part: str, indices: np.ndarray) -> Split:
        chosen = [parts[part][i] for i in indices]
        x = np.empty((len(chosen), *shape), np.uint8)
        for row, picture in enumerate(chosen):
            x[row] = _decoded(picture.path, shape, cut=size is not None)
        return Split(x, np.asarray([picture.label for picture in chosen], np.int32))

    name = path.resolve().name if name is None else name
    source = Source(name, len(classes), len(parts["train"]), len(parts["test"]), read)
    return assemble(name, source, validation=validation, seed=seed, limit=limit)


def _classes(root: Path) -> list[str]:
    names = sorted(part.name for part in root.iterdir() if part.is_dir() and part.name[0] != ".")
    if len(names) < 2:
        raise ValueError(
            f"{root} needs a folder of images for each of at least 2 classes, and has: "
            f"{', '.join(names) or 'none'}"
        )
    return names


def _pictures(root: Path, classes: list[str], rng: np.random.Generator) -> list[Picture]:
    """The images of all classes, in a random order; of each the header is read."""
    if extra := sorted({*_classes(root)} ^ {*classes}):
        raise ValueError(f"the class {extra[0]!r} is in one of train/ and test/ alone: see {root}")
    found = []
    for label, name in enumerate(classes):
        files = sorted(f for f in (root / name).iterdir() if f.suffix.lower() in SUFFIXES)
        files = [f for f in files if f.name[0] != "."]
        if not files:
            raise ValueError(
                f"the class folder {root / name} holds no images; known are "
                f"{', '.join(sorted(SUFFIXES))}"
            )
        found += [_opened(file, label) for file in files]
    return [found[i] for i in rng.permutation(len(found))]


def _opened(path: Path, label: int) -> Picture:
    try:
        with Image.open(path, formats=FORMATS) as image:
            mode, (width, height) = image.mode, image.size
    except Exception as error:
        # Foreign bytes fail in many ways.
        raise _broken(path, error) from error
    if mode not in GRAY | COLOR:
        raise ValueError(f"{path} has pixels of the mode {mode}; save it with 8 bits a channel")
    return Picture(path, label, (height, width), mode in GRAY)


def _shape(pictures: list[Picture], size: int | None) -> tuple[int, int, int]:
    first = pictures[0]
    other = next((p for p in pictures if p.size != first.size), None)
    if size is None and other is not None:
        (h, w), (g, v) = first.size, other.size
        raise ValueError(
            f"images must be of one size, but {first.path} is {h}x{w} and {other.path} is {g}x{v}; "
            "give size=, such as size=32, to cut and scale them all"
        )
    height, width = first.size if size is None else (size, size)
    return height, width, 1 if all(picture.gray for picture in pictures) else 3


def _decoded(path: Path, shape: tuple[int, int, int], *, cut: bool) -> np.ndarray:
    height, width, channels = shape
    try:
        with Image.open(path, formats=FORMATS) as image:
            pixels = image.convert("L" if channels == 1 else "RGB")
            if cut:
                box = center_box(*pixels.size, share=1.0)
                pixels = pixels.resize((width, height), Image.Resampling.BILINEAR, box=box)
            return np.asarray(pixels).reshape(shape)
    except Exception as error:
        raise _broken(path, error) from error


def _broken(path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"{path} cannot be read as an image ({type(error).__name__}: {error}); mend or delete it"
    )
