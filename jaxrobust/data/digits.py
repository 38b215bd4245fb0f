"""The embedded default: scikit-learn's 8x8 digits, present wherever scikit-learn is."""

from __future__ import annotations

import numpy as np

from jaxrobust import checks
from jaxrobust.data.types import Source, Split

TEST_SIZE = 500


def digits() -> Source:
    """1,797 gray 8x8 handwritten digits in 10 classes, 1,297 to train on and 500 to test on.

    The pixels, 0 to 16 in the source, are scaled to 0 to 255 and rounded. The set has no
    official split: this one is stratified by class and the same for every seed, so that test
    figures of different runs compare.

    Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI (1998);
    these are its test images, as scikit-learn ships them.
    """
    # Importing scikit-learn takes about a second, which users of other sets need not spend.
    with checks.extra("data"):
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    x = np.rint(images.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    y = labels.astype(np.int32)
    train, test = train_test_split(
        np.arange(len(y)), test_size=TEST_SIZE, stratify=y, random_state=0
    )
    rows = {"train": train, "test": test}

    def read(split: str, indices: np.ndarray) -> Split:
        chosen = rows[split][indices]
        return Split(x[chosen], y[chosen])

    return Source("Digits (8x8)", 10, len(train), len(test), read)
