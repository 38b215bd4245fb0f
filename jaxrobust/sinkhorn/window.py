"""Transport within a window around each pixel, as stencils over flat images.

A local plan sends mass from pixel i to i + delta only, for the offsets delta of a small window:
`[K, ...]` numbers for K offsets instead of one for each pair of pixels (Wong's thesis, section
5.1.5). Images are laid out as lines of pixels in which blanks follow each row, so that every
offset is one contiguous slice, whatever row or edge it crosses.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

import jax.numpy as jnp
import numpy as np

from jaxrobust import checks
from jaxrobust.types import Array, Scalar


def window(size: int = 5, *, p: float = 1.0) -> np.ndarray:
    """Transport costs within a window: |delta|_2^p, with distances in pixel widths.

    The thesis uses size 5 and p = 1, the 1-Wasserstein distance (section 5.2); the released
    code's default is p = 2.

    Args:
      size: the number of pixels along each side of the window, odd and at least 3.
      p: the exponent of the distance, above 0.

    Returns:
      The costs, a float64 array `[size, size]` on the host, 0 at the center.

    Raises:
      ValueError: for an even size or one below 3, in which nothing moves, or a p that is not one
        number above 0.

    Example:
      >>> from jaxrobust import sinkhorn
      >>> sinkhorn.window(3).round(2).tolist()
      [[1.41, 1.0, 1.41], [1.0, 0.0, 1.0], [1.41, 1.0, 1.41]]
    """
    checks.at_least("size", size, 3)
    checks.positive("p", p)
    if np.shape(p):
        raise ValueError(f"p must be one number, got shape {np.shape(p)}")
    if size % 2 == 0:
        raise ValueError(f"size must be odd, so that the window has a center, got {size}")
    reach = np.arange(size) - size // 2
    return np.hypot(reach[:, None], reach[None, :]) ** p


def costs(cost: Array, dtype: np.dtype) -> Array:
    """The window `cost` as a vector `[K]` of `dtype`.

    Raises ValueError unless it has two odd sides, not both of 1, and, where its values are known,
    entries that are finite, at least 0, and 0 at the center.
    """
    shape = np.shape(cost)
    if len(shape) != 2 or any(side % 2 == 0 for side in shape):
        raise ValueError(
            f"cost must be a window [rows, columns] with odd sides, got shape {shape}; "
            "sinkhorn.window(5) makes one"
        )
    if shape == (1, 1):
        raise ValueError("cost is a window of one pixel, in which nothing moves; take a wider one")
    checks.nonnegative("cost", cost)
    if checks.is_concrete(cost) and np.asarray(cost)[shape[0] // 2, shape[1] // 2] != 0:
        raise ValueError("cost must be 0 at the center of the window: staying is free")
    return jnp.asarray(cost, dtype).ravel()


@dataclasses.dataclass(frozen=True)
class Layout:
    """How an image of `shape` `[H, W]` or `[H, W, C]` becomes lines `[C, N]` for a window.

    `reach` is half the window's height and width, rounded down. A line holds the H rows of one
    channel, each followed by `reach[1]` blank pixels: N = H (W + reach[1]).
    """

    shape: tuple[int, ...]
    reach: tuple[int, int]

    @property
    def margin(self) -> int:
        """How far an offset can lead along a line."""
        return self.reach[0] * (self.shape[1] + self.reach[1]) + self.reach[1]

    @property
    def length(self) -> int:
        """N, the number of pixels of a line, blanks included."""
        return self.shape[0] * (self.shape[1] + self.reach[1])

    @property
    def offsets(self) -> tuple[int, ...]:
        """Where the window's pixels lie along a line, relative to the center, row by row."""
        rows, columns = (range(-r, r + 1) for r in self.reach)
        return tuple(a * (self.shape[1] + self.reach[1]) + b for a in rows for b in columns)

    def lines(self, image: Array, blank: Scalar = 0.0) -> Array:
        """The image as lines `[C, N]`, with `blank` in the blank pixels."""
        height, width = self.shape[:2]
        channels = jnp.moveaxis(
            jnp.reshape(image, (height, width, math.prod(self.shape[2:]))), 2, 0
        )
        padded = jnp.pad(channels, ((0, 0), (0, 0), (0, self.reach[1])), constant_values=blank)
        return padded.reshape(-1, self.length)

    def image(self, lines: Array) -> Array:
        """The image that `lines` was made from."""
        height, width = self.shape[:2]
        rows = lines.reshape(-1, height, width + self.reach[1])[:, :, :width]
        return jnp.moveaxis(rows, 0, 2).reshape(self.shape)

    def padded(self, lines: Array, value: Scalar = 0.0) -> Array:
        """`lines` `[..., N]` with `margin` pixels of `value` at both ends."""
        ends = [(0, 0)] * (lines.ndim - 1) + [(self.margin, self.margin)]
        return jnp.pad(lines, ends, constant_values=value)

    def shifts(self, lines: Array, outside: Scalar = 0.0) -> list[Array]:
        """The values at i + delta, a line `[C, N]` for each offset; `outside` past the ends."""
        line, m, n = self.padded(lines, outside), self.margin, self.length
        return [line[:, m + o : m + o + n] for o in self.offsets]

    def stays(self, plan: Array) -> list[Array]:
        """The lines `[C, N]` of each offset's share, from a padded `plan` `[K, C, ...]`."""
        return [share[:, self.margin : self.margin + self.length] for share in plan]

    def arrivals(self, plan: Array, lines: Array) -> list[Array]:
        """For each offset delta the line of plan[delta, j - delta] lines[j - delta] over j."""
        line, m, n = self.padded(lines), self.margin, self.length
        starts = [m - o for o in self.offsets]
        return [
            share[:, s : s + n] * line[:, s : s + n] for share, s in zip(plan, starts, strict=True)
        ]

    def gather(self, plan: Array, lines: Array) -> Array:
        """sum_delta plan[delta, i] lines[i + delta]: `[C, N]`."""
        return total(a * b for a, b in zip(self.stays(plan), self.shifts(lines), strict=True))

    def scatter(self, plan: Array, lines: Array) -> Array:
        """sum_delta plan[delta, j - delta] lines[j - delta]: `[C, N]`, the adjoint of `gather`."""
        return total(self.arrivals(plan, lines))


def layout(image: Array, cost: Array) -> Layout:
    """The layout of `image` for the window `cost`. ValueError unless `[H, W]` or `[H, W, C]`."""
    shape = np.shape(image)
    if len(shape) not in (2, 3):
        raise ValueError(
            f"transport needs one image [H, W] or [H, W, C], got shape {shape}; "
            "map over a batch with jax.vmap"
        )
    rows, columns = np.shape(cost)
    return Layout(shape, (rows // 2, columns // 2))


def total(terms: Iterable[Array]) -> Array:
    """The sum of a few arrays, pairwise: less rounding than a chain, and still one loop."""
    terms = list(terms)
    while len(terms) > 1:
        pairs = [a + b for a, b in zip(terms[::2], terms[1::2], strict=False)]
        terms = pairs + terms[2 * len(pairs) :]
    return terms[0]
