"""Two lines around a function on an interval."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from jaxrobust.types import Array


class Lines(NamedTuple):
    """lower_slope z + lower_intercept <= h(z) <= upper_slope z + upper_intercept on [l, u]."""

    lower_slope: Array
    lower_intercept: Array
    upper_slope: Array
    upper_intercept: Array


def thin(l: Array, u: Array) -> Array:  # noqa: E741
    """Whether [l, u] is no wider than rounding: a slope over it would be noise."""
    return u - l <= 64 * jnp.finfo(l.dtype).eps * (jnp.abs(l) + jnp.abs(u))


def chord(l: Array, u: Array, low: Array, high: Array) -> tuple[Array, Array, Array]:  # noqa: E741
    """The line from (l, low) to (u, high): its slope, and intercepts rounded down and up.

    The slope is 0 where [l, u] is `thin`; the intercepts then are the smaller and larger end.
    """
    narrow = thin(l, u)
    slope = jnp.where(narrow, 0, (high - low) / jnp.where(narrow, 1, u - l))
    left, right = low - slope * l, high - slope * u
    return slope, jnp.minimum(left, right), jnp.maximum(left, right)
