"""Bisection over the bit patterns of the nonnegative floats: exact at every scale."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxrobust.types import Array

_INTEGERS = {2: jnp.int16, 4: jnp.int32, 8: jnp.int64}


def largest_where(holds: Callable[[Array], Array], most: Array) -> Array:
    """The largest float t in [0, most] for which `holds(t)`, or 0 where none does.

    Bisects the bit pattern, which orders nonnegative floats as integers: the answer is exact at
    every scale, and on a CPU about thirty sums are much cheaper than one sort. Not differentiable:
    close over stopped gradients.

    Args:
      holds: scalar t -> scalar bool, which must turn from true to false at most once as t grows.
        It is called once per bit of the dtype.
      most: the largest float tried, a scalar >= 0; its dtype is that of the answer.
    """
    integer = _INTEGERS[most.dtype.itemsize]

    def halve(_: int, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        middle = low + (high - low) // 2
        good = holds(jax.lax.bitcast_convert_type(middle, most.dtype))
        return jnp.where(good, middle, low), jnp.where(good, high, middle)

    above = jax.lax.bitcast_convert_type(jax.lax.stop_gradient(most), integer) + 1
    low, _ = jax.lax.fori_loop(0, 8 * most.dtype.itemsize, halve, (jnp.zeros_like(above), above))
    return jax.lax.bitcast_convert_type(low, most.dtype)
