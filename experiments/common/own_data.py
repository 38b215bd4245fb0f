"""One's own data on a command line: an .npz file, or a folder of images by class."""

from __future__ import annotations

from pathlib import Path

from jaxrobust import data
from jaxrobust.data import Dataset


def read(path: Path, *, size: int | None, validation: int, limit: int | None) -> Dataset:
    """The data set at `path`, named after its file or folder; see `data.from_npz`, `from_folder`.

    Args:
      size: cuts and scales a folder's images to so many pixels on a side.
      validation: training images to hold out. limit: keep at most so many images of each split.

    Raises:
      FileNotFoundError: there is nothing at `path`.
      ValueError: it holds no such data set; or `size` for a file.
    """
    if path.is_dir():
        return data.from_folder(path, size=size, validation=validation, limit=limit)
    if not path.exists():
        raise FileNotFoundError(f"--data: there is no file or folder {path}")
    if size is not None:
        raise ValueError(f"--image-size scales a folder of images, and {path} is a file")
    return data.from_npz(path, validation=validation, limit=limit)
