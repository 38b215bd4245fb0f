"""Reference figures of released code, as .npz files of a folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from jaxrobust.data import Split
from jaxrobust.files import PathLike

ORDER = "mnist_test_order.npz"


def load_reference(file: Path) -> dict[str, np.ndarray]:
    """The arrays of a file; FileNotFoundError where there is none."""
    if not file.is_file():
        raise FileNotFoundError(f"there are no reference figures at {file}; check --reference-dir")
    with np.load(file, allow_pickle=False) as held:
        return {name: held[name] for name in held.files}


def original_order(test: Split, directory: PathLike) -> Split:
    """MNIST's test images in the order of the original files, which TFDS shuffles.

    `mnist_test_order.npz` in the directory holds, for each original position, that in the split.

    Raises:
      FileNotFoundError: no such file. ValueError: it is not of as many images.
    """
    position = load_reference(Path(directory) / ORDER)["position"]
    if sorted(position) != list(range(test.size)):
        raise ValueError(
            f"{Path(directory) / ORDER} orders {len(position)} images, the test split has "
            f"{test.size}: choose the file made from this data set"
        )
    return Split(test.x[position], test.y[position])
