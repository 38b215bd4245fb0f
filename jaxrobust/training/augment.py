"""Augmentations of one image `[H, W, C]`, on the device, from one key."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrobust import checks
from jaxrobust.training.step import Augment
from jaxrobust.types import Array, Key

PADDINGS = ("constant", "reflect")


def flip(key: Key, x: Array) -> Array:
    """Mirrors an image left to right with probability 1/2.

    Args:
      key: the random key.
      x: the image, `[H, W, C]`.

    Returns:
      The image, mirrored or not, `[H, W, C]`.
    """
    _require_image("flip", x)
    return jnp.where(jax.random.bernoulli(key), x[:, ::-1], x)


def crop(padding: int, *, mode: str = "constant", fill: float = 0.0) -> Augment:
    """Cuts a random window of the image's own size, after padding each side by `padding` pixels.

    Args:
      padding: pixels added on each side, at least 0.
      mode: what to pad with, "constant" (`fill`) or "reflect".
      fill: the value of the padding; 0 is black in [0, 1], and -1 in [-1, 1].

    Returns:
      An augmentation: a function (key, image `[H, W, C]`) -> window `[H, W, C]`.

    Raises:
      ValueError: padding below 0, or an unknown mode.
    """
    checks.at_least("padding", padding, 0)
    checks.choice("mode", mode, PADDINGS)
    filled = {"constant_values": fill} if mode == "constant" else {}

    def apply(key: Key, x: Array) -> Array:
        _require_image("crop", x)
        around = ((padding, padding), (padding, padding), (0, 0))
        padded = jnp.pad(x, around, mode=mode, **filled)
        corner = jax.random.randint(key, (2,), 0, 2 * padding + 1)
        return jax.lax.dynamic_slice(padded, (corner[0], corner[1], jnp.int32(0)), x.shape)

    return apply


def compose(*augmentations: Augment) -> Augment:
    """Augmentations one after the other, each with a key of its own.

    Args:
      augmentations: functions (key, image `[H, W, C]`) -> image, in their order.

    Returns:
      An augmentation: a function (key, image `[H, W, C]`) -> augmented image.
    """

    def apply(key: Key, x: Array) -> Array:
        for augmentation in augmentations:
            key, own = jax.random.split(key)
            x = augmentation(own, x)
        return x

    return apply


def crop_flip(padding: int = 4, *, mode: str = "constant", fill: float = 0.0) -> Augment:
    """The CIFAR standard: crop with padding, then flip.

    Args:
      padding, mode, fill: see `crop`.

    Returns:
      An augmentation: a function (key, image `[H, W, C]`) -> augmented image `[H, W, C]`.

    Raises:
      ValueError: as `crop`.
    """
    return compose(crop(padding, mode=mode, fill=fill), flip)


def cutout(size: int, *, fill: float = 0.0) -> Augment:
    """Blackens a random square of `size` pixels on a side, wholly inside the image.

    DeVries & Taylor 2017; Wong's thesis, section 4.4.2, which finds 14 best against robust
    overfitting of CIFAR-10. Apply it last, before any normalization (which is the model's).

    Args:
      size: pixels on a side of the square, at least 1.
      fill: the value of the square, see `crop`.

    Returns:
      An augmentation: a function (key, image `[H, W, C]`) -> image `[H, W, C]` with a square of
      `fill`.

    Raises:
      ValueError: size < 1, or an image smaller than the square.
    """
    checks.at_least("size", size, 1)

    def apply(key: Key, x: Array) -> Array:
        _require_image("cutout", x)
        if min(x.shape[:2]) < size:
            raise ValueError(f"cutout of size {size} needs larger images than {x.shape}")
        room = jnp.asarray([side - size + 1 for side in x.shape[:2]])
        top, left = jax.random.randint(key, (2,), 0, room)
        rows, columns = (
            (jnp.arange(side) >= first) & (jnp.arange(side) < first + size)
            for side, first in zip(x.shape[:2], (top, left), strict=True)
        )
        hole = rows[:, None, None] & columns[None, :, None]
        return jnp.where(hole, jnp.asarray(fill, x.dtype), x)

    return apply


def _require_image(name: str, x: Array) -> None:
    if x.ndim != 3:
        raise ValueError(
            f"{name} needs images [H, W, C], got examples of shape {x.shape}; leave augment away"
        )
