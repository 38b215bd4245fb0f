"""How much arithmetic a job is, and how fast this machine does arithmetic at best."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.models.convnet import ConvSpec

SIZE = 2048
"""Side of the square matrices of the peak."""


def sides(convs: Sequence[ConvSpec], side: int) -> list[int]:
    """Side of the image after each convolution, which pads one zero all around."""
    found = []
    for _, kernel, stride in convs:
        side = (side + 2 - kernel) // stride + 1
        found.append(side)
    return found


def forward_flops(
    convs: Sequence[ConvSpec], widths: Sequence[int], shape: tuple[int, int, int], classes: int
) -> int:
    """Multiplications and additions of one image's forward pass in the matrix products alone.

    2 H' W' k^2 C F for a convolution, 2 M N for a dense layer. The pass back to the input
    multiplies by the same matrices transposed and costs as much; biases, ReLUs and the attack's
    own arithmetic are left out.

    Args:
      convs, widths: as `models.ConvNet`'s. shape: square image, (height, width, channels).
    """
    channels, flops = shape[-1], 0
    after = sides(convs, shape[0])
    for (features, kernel, _), side in zip(convs, after, strict=True):
        flops += 2 * side**2 * kernel**2 * channels * features
        channels = features
    layers = [after[-1] ** 2 * channels, *widths, classes]
    return flops + sum(2 * m * n for m, n in itertools.pairwise(layers))


def peak(multiply: Callable[[Any, Any], Any], a: Any, b: Any, *, repeats: int = 7) -> float:
    """Floating-point operations a second that `multiply` reaches on two square matrices.

    The best of `repeats` calls after one to warm up; `multiply` must wait for its result.
    """
    multiply(a, b)
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        multiply(a, b)
        best = min(best, time.perf_counter() - start)
    return 2 * a.shape[0] ** 3 / best


def cores() -> int:
    """Processor cores that this process may use; XLA takes as many threads."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def matrices(size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """Two float32 matrices `[size, size]`."""
    random = np.random.default_rng(0)
    a, b = random.standard_normal((2, size, size), dtype=np.float32)
    return a, b


def jax_peak(dtype: str = "float32", *, size: int = SIZE) -> float:
    """Operations a second of XLA's matrix product in `dtype`, at JAX's default precision."""
    product = jax.jit(jnp.matmul)
    a, b = (jnp.asarray(m, dtype) for m in matrices(size))
    return peak(lambda a, b: product(a, b).block_until_ready(), a, b)
