"""How far medians of Cauchy projections are from l1 norms on a convolution: figure 3.19."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import models
from jaxrobust.duals import estimators
from jaxrobust.types import Array, Key

SAMPLES = (10, 50, 100)
SIDE = 14
"""Side of the images that the layer sees."""


def untrained(key: Key, kernel: Array) -> Array:
    """A kernel of the same shape as drawn before training, N(0, 2 / (h w F))."""
    height, width, _, features = kernel.shape
    return (2 / (height * width * features)) ** 0.5 * jax.random.normal(key, kernel.shape)


@jax.jit
def _projections(key: Key, kernel: Array) -> tuple[Array, Array]:
    draws = estimators.cauchy(key, (max(SAMPLES), SIDE, SIDE, kernel.shape[2]), kernel.dtype)
    options = {"strides": (2, 2), "padding": 1}
    ones = jnp.ones((1, *draws.shape[1:]), kernel.dtype)
    exact = models.convolve(ones, jnp.abs(kernel), **options)[0]
    return exact, models.convolve(draws, kernel, **options)


def relative_errors(key: Key, kernel: Array) -> dict[int, np.ndarray]:
    """(estimate - norm) / norm of every unit's row, by the number of projections.

    The layer is a convolution with stride 2 on `SIDE` x `SIDE` images; units whose row is zero, as
    training leaves many, are left out.
    """
    exact, projected = _projections(key, kernel)
    kept = np.asarray(exact) > 1e-6 * float(exact.max())
    found = {k: estimators.cauchy_median(projected[:k]) / exact - 1 for k in SAMPLES}
    return {k: np.asarray(v)[kept] for k, v in found.items()}
