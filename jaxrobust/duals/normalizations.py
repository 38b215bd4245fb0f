"""Softmax and its like as bounds want them: by differences, in which a shift of all cancels."""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax

from jaxrobust.types import Array

_PAIRS = 64
"""The most numbers that are all compared with each other."""


def softmax(z: Array, axis: tuple[int, ...]) -> Array:
    """1 / sum_j exp(z_j - z_i): every number is met once on each side."""
    summed = _summed_differences(z, axis)
    if summed is not None:
        return lax.integer_pow(summed, -1)
    return jnp.exp(log_softmax(z, axis))


def log_softmax(z: Array, axis: tuple[int, ...]) -> Array:
    """-log sum_j exp(z_j - z_i)."""
    summed = _summed_differences(z, axis)
    if summed is not None:
        return -jnp.log(summed)
    return z - logsumexp(z, axis, keepdims=True)


def logsumexp(z: Array, axis: tuple[int, ...], *, keepdims: bool) -> Array:
    """m + log sum_j exp(z_j - m), m the mean."""
    mean = jnp.mean(z, axis=axis, keepdims=True)
    log = jnp.log(jnp.sum(jnp.exp(z - mean), axis=axis, keepdims=True))
    total = mean + log
    return total if keepdims else jnp.squeeze(total, axis)


def _summed_differences(z: Array, axis: tuple[int, ...]) -> Array | None:
    """sum_j exp(z_j - z_i) over one axis; None over several, or for too many numbers."""
    if len(axis) != 1 or z.shape[axis[0]] > _PAIRS:
        return None
    (own,) = axis
    n = z.shape[own]
    shape = (*z.shape[: own + 1], n, *z.shape[own + 1 :])
    others = lax.broadcast_in_dim(z, shape, tuple(i if i < own else i + 1 for i in range(z.ndim)))
    ours = lax.broadcast_in_dim(z, shape, tuple(i if i <= own else i + 1 for i in range(z.ndim)))
    return jnp.sum(jnp.exp(others - ours), axis=own + 1)
