"""Normalization by a batch's own mean and variance, with a derivative of few passes."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxrobust.models.convolution import along_channels
from jaxrobust.types import Array

Axes = str | tuple[str, ...] | None
"""Mapped axes over which means run on."""


class Standardized(NamedTuple):
    """The normalized batch, and the statistics `[C]` that it was normalized by."""

    y: Array
    mean: Array
    var: Array


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def standardize(axes: Axes, epsilon: float, x: Array, scale: Array, offset: Array) -> Standardized:
    """scale (x - mean) / sqrt(var + epsilon) + offset, by the batch's own mean and variance.

    They are taken over all axes but the last. Ioffe & Szegedy 2015 (arXiv:1502.03167), Algorithm 1.
    Differentiable to any order, in closed
    form: automatic differentiation of the formula reads and writes the batch several times more,
    where a training step on a GPU waits for memory.

    Args:
      axes: mapped axes over which the means run on.
      epsilon: added to the variance.
      x: `[..., C]`.
      scale, offset: `[C]`.

    Returns:
      The normalized batch `[..., C]`, its mean and its variance `[C]`.
    """
    mean, square = _means(axes, x, lax.square(x))
    # Rounding may make the difference negative.
    var = jnp.maximum(square - lax.square(mean), 0)
    gain, mean_, offset = (
        along_channels(a, x.ndim) for a in (scale * lax.rsqrt(var + epsilon), mean, offset)
    )
    return Standardized((x - mean_) * gain + offset, mean, var)


@standardize.defjvp
def _tangent(
    axes: Axes,
    epsilon: float,
    primals: tuple[Array, Array, Array],
    tangents: tuple[Array, Array, Array],
) -> tuple[Standardized, Standardized]:
    (x, scale, _), (dx, dscale, doffset) = primals, tangents
    found = standardize(axes, epsilon, *primals)
    wide = functools.partial(along_channels, ndim=x.ndim)
    inverse = lax.rsqrt(found.var + epsilon)
    unit = (x - wide(found.mean)) * wide(inverse)
    shift, along = _means(axes, dx, unit * dx)
    moved = (dx - wide(shift) - unit * wide(along)) * wide(scale * inverse)
    dy = moved + unit * wide(dscale) + wide(doffset)
    return found, Standardized(dy, shift, 2 * along / inverse)


def _means(axes: Axes, *values: Array) -> list[Array]:
    """Means `[C]` over all axes but the last, and over the mapped ones in one exchange."""
    own = [jnp.mean(value, range(value.ndim - 1)) for value in values]
    return list(lax.pmean(own, axes)) if axes else own
