"""Augmentations of one image `[H, W, C]`, on the device, from one key."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrobust import checks
from jaxrobust.training.step import Augment
from jaxrobust.types import Array, Key

PADDINGS = ("constant", "reflect")


def flip(key: Key, x: Array) -> Array:
    """Mirrored left to right with probability 1/2."""
    return jnp.where(jax.random.bernoulli(key), x[:, ::-1], x)


def crop(padding: int, *, mode: str = "constant") -> Augment:
    """A random window of the image's own size, after padding each side by `padding` pixels.

    Args:
      mode: what to pad with, "constant" (zeros) or "reflect".
    """
    checks.at_least("padding", padding, 0)
    checks.choice("mode", mode, PADDINGS)

    def apply(key: Key, x: Array) -> Array:
        padded = jnp.pad(x, ((padding, padding), (padding, padding), (0, 0)), mode=mode)
        corner = jax.random.randint(key, (2,), 0, 2 * padding + 1)
        return jax.lax.dynamic_slice(padded, (corner[0], corner[1], jnp.int32(0)), x.shape)

    return apply


def compose(*augmentations: Augment) -> Augment:
    """One after the other, each with a key of its own."""

    def apply(key: Key, x: Array) -> Array:
        for augmentation in augmentations:
            key, own = jax.random.split(key)
            x = augmentation(own, x)
        return x

    return apply


def crop_flip(padding: int = 4, *, mode: str = "constant") -> Augment:
    """The CIFAR standard: crop with padding, then flip."""
    return compose(crop(padding, mode=mode), flip)
