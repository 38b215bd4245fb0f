"""Which part of an image is cut out, as a box (left, top, right, bottom)."""

from __future__ import annotations

import math

import numpy as np

Box = tuple[float, float, float, float]

ASPECT = (3 / 4, 4 / 3)
"""Width by height of random boxes, at least and at most."""
TRIES = 10


def random_box(
    rng: np.random.Generator, width: int, height: int, *, area: tuple[float, float] = (0.08, 1.0)
) -> Box:
    """A random part of an image, of random area and aspect, at a random place.

    The usual augmentation of ImageNet (Szegedy et al. 2014, arXiv:1409.4842, section 6): the area
    is uniform in `area`, as a share of the image; the logarithm of the aspect is uniform in that of
    `ASPECT`. Where none of `TRIES` draws fits, the largest centered box of an allowed aspect.
    """
    for _ in range(TRIES):
        target = width * height * rng.uniform(*area)
        aspect = math.exp(rng.uniform(*np.log(ASPECT)))
        w, h = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if 0 < w <= width and 0 < h <= height:
            left = int(rng.integers(0, width - w + 1))
            top = int(rng.integers(0, height - h + 1))
            return left, top, left + w, top + h
    w, h = min(width, height * ASPECT[1]), min(height, width / ASPECT[0])
    return _centered(width, height, w, h)


def center_box(width: int, height: int, *, share: float = 0.875) -> Box:
    """The centered square whose side is `share` of the shorter side.

    Scaled to S pixels it is the usual evaluation crop: the shorter side scaled to S / share, 256
    for 224, then the central S x S pixels.
    """
    side = share * min(width, height)
    return _centered(width, height, side, side)


def _centered(width: int, height: int, w: float, h: float) -> Box:
    left, top = (width - w) / 2, (height - h) / 2
    return left, top, left + w, top + h
