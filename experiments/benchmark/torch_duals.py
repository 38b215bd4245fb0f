"""Certified margins in PyTorch: Wong & Kolter's bound, written for this benchmark.

The plain way, not the fastest there could be: every unit is a row, and transposed convolutions
are `conv_transpose2d`, of which the one to gray images takes most of the time on a CPU.
PyTorch is imported inside the functions: the benchmark runs without it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from .twin import Tensor, Twin


class Part(NamedTuple):
    """An affine stretch of the network, between two ReLUs."""

    layers: Sequence[Any]
    shapes: Sequence[tuple[int, ...]]
    """Shapes of an image's value before each layer."""


class Slopes(NamedTuple):
    """One layer of ReLUs, relaxed: z -> slope z below and slope (z - low) above, low <= 0."""

    slope: Tensor
    """`[B, units]`."""
    low: Tensor
    """`[B, units]`: the lower bound of a unit that crosses zero, 0 of others."""


def margins(twin: Twin, epsilon: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Bounds `[B, K]` below f_y - f_j over linf balls around images `[B, C, H, W]`; 0 at j = y.

    Wong's thesis, algorithm 1, with the signs that its proofs have: for a row c over the units z
    of some layer, nu is c pulled back through affine parts transposed and ReLUs as slopes, and
      lower = x.nu + sum b.nu - epsilon |nu|_1 + sum slope low relu(-nu),
      upper = x.nu + sum b.nu + epsilon |nu|_1 - sum slope low relu(nu).
    Every unit of every hidden layer is such a row, over all images at once.
    """
    import torch

    parts = split(twin)

    def bounds(rows: Tensor, part: int, x: Tensor, slopes: Sequence[Slopes]) -> tuple[Tensor, ...]:
        """Lower and upper bounds of `rows` `[B or 1, R, units]` over the outputs of `part`."""
        nu, below, above, value = rows, 0.0, 0.0, 0.0
        for index in range(part, -1, -1):
            nu, shift = transposed(parts[index], nu)
            value = value + shift
            if index:
                slope, low = slopes[index - 1]
                most = slope * low
                below = below + dots(nu.clamp(max=0).neg(), most)
                above = above - dots(nu.clamp(min=0), most)
                nu = nu * slope[:, None]
        value = value + dots(nu, x.flatten(1))
        reach = epsilon * nu.abs().sum(-1)
        return value - reach + below, value + reach + above

    def run(x: Tensor, y: Tensor) -> Tensor:
        slopes: list[Slopes] = []
        with torch.no_grad():
            for index, part in enumerate(parts[1:]):
                units = torch.eye(size(part), dtype=x.dtype, device=x.device)[None]
                slopes.append(relaxed(*bounds(units, index, x, slopes)))
            eye = torch.eye(twin.classes, dtype=x.dtype, device=x.device)
            return bounds(eye[y][:, None] - eye, len(parts) - 1, x, slopes)[0]

    return run


def dots(rows: Tensor, vectors: Tensor) -> Tensor:
    """Products `[B, R]` of rows `[B, R, n]`, or `[1, R, n]` for all, with vectors `[B, n]`."""
    import torch

    return torch.einsum("brn,bn->br", rows, vectors)


def relaxed(lower: Tensor, upper: Tensor) -> Slopes:
    """The slopes u / (u - l) of ReLUs that cross zero, 0 and 1 of the others."""
    import torch

    crosses = (lower < 0) & (upper > 0)
    width = torch.where(crosses, upper - lower, 1)
    slope = torch.where(crosses, upper / width, (lower >= 0).to(lower.dtype))
    return Slopes(slope, torch.where(crosses, lower, 0))


def split(twin: Twin) -> list[Part]:
    """The network's affine parts in order; each begins behind a ReLU, or at the image."""
    import torch

    parts, value = [Part([], [])], torch.zeros(1, *twin.shape)
    value = value.to(next(twin.network.parameters()).device)
    for layer in twin.network:
        if isinstance(layer, torch.nn.ReLU):
            parts.append(Part([], []))
            continue
        parts[-1].layers.append(layer)
        parts[-1].shapes.append(tuple(value.shape[1:]))
        value = layer(value)
    return parts


def size(part: Part) -> int:
    """How many numbers enter the part."""
    count = 1
    for n in part.shapes[0]:
        count *= n
    return count


def transposed(part: Part, nu: Tensor) -> tuple[Tensor, Tensor]:
    """Rows `[B, R, outputs]` of a part pulled back to its input, flat; and their products with b.

    Raises ValueError for a layer that is not affine here.
    """
    import torch

    functional = torch.nn.functional
    leading, shift = nu.shape[:2], 0.0
    nu = nu.flatten(0, 1)
    for layer, shape in zip(reversed(part.layers), reversed(part.shapes), strict=True):
        if isinstance(layer, torch.nn.Linear):
            shift = shift + nu @ layer.bias
            nu = nu @ layer.weight
        elif isinstance(layer, torch.nn.Conv2d):
            sides = [
                (n + 2 * p - k) // s + 1
                for n, p, k, s in zip(
                    shape[1:], layer.padding, layer.kernel_size, layer.stride, strict=True
                )
            ]
            nu = nu.reshape(-1, layer.out_channels, *sides)
            shift = shift + nu.sum((2, 3)) @ layer.bias
            # pixels that no window reaches
            left = [
                n - ((m - 1) * s - 2 * p + k)
                for n, m, s, p, k in zip(
                    shape[1:], sides, layer.stride, layer.padding, layer.kernel_size, strict=True
                )
            ]
            nu = functional.conv_transpose2d(
                nu, layer.weight, None, layer.stride, layer.padding, left
            ).flatten(1)
        elif not isinstance(layer, torch.nn.Flatten):
            raise ValueError(f"no transpose of {type(layer).__name__}")
    return nu.reshape(*leading, -1), shift.reshape(leading)
