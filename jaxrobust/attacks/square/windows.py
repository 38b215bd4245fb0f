"""Windows of an image as masks: their sides and places are traced, every shape is static."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from jaxrobust.types import Array, Key

Grid = tuple[int, int, int]
"""[height, width, channels]."""

Sides = tuple[Array, Array]
"""Height and width of a window, int32 each."""

Propose = Callable[[Key, Array, Sides], Array]
"""(key, current point [H, W, C], sides of the window) -> the next point to query."""


class Window(NamedTuple):
    """A rectangle of an image."""

    rows: Array
    """int32 [H]: each row's position from the window's top, negative above it."""
    columns: Array
    """int32 [W]: each column's position from the window's left."""
    mask: Array
    """bool [H, W]: inside the window."""


def window_at(grid: Grid, top: Array, left: Array, sides: Sides) -> Window:
    """The window of these sides whose upper left corner is at (top, left)."""
    rows = jnp.arange(grid[0], dtype=jnp.int32) - top
    columns = jnp.arange(grid[1], dtype=jnp.int32) - left
    tall = (rows >= 0) & (rows < sides[0])
    wide = (columns >= 0) & (columns < sides[1])
    return Window(rows, columns, tall[:, None] & wide[None, :])


def place(grid: Grid, draws: Array, sides: Sides) -> Window:
    """The window at a uniformly random place: `draws` are two uniform numbers in [0, 1)."""
    top, left = (
        jnp.floor(draw * (length - side + 1).astype(draw.dtype)).astype(jnp.int32)
        for draw, length, side in zip(draws, grid[:2], sides, strict=True)
    )
    return window_at(grid, top, left, sides)
