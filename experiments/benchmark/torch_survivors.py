"""Attempts one after another, each on the images that those before it did not break, in PyTorch.

The rule by which the authors' AutoAttack runs its four attacks, and inside of them its targets.
PyTorch is imported inside the functions: the benchmark runs without it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .twin import Perturb, Tensor

Attempt = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(images `[B, C, H, W]`, labels `[B]`) -> points of that shape, and bool `[B]`: which count."""


def in_turn(
    network: Any, attempts: Sequence[Attempt], x: Tensor, y: Tensor, *, batch: int | None = None
) -> Tensor:
    """Points that count where an attempt found one, the clean images elsewhere.

    A clean pass comes first: a misclassified image stands for itself and is never attacked. The
    survivors of the whole set are packed into batches anew before every attempt.

    Args:
      network: images -> logits.
      attempts: in their order.
      x: images `[N, C, H, W]`.
      y: labels `[N]`.
      batch: images at a time (default: all).

    Returns:
      Points `[N, C, H, W]`.
    """
    import torch

    size = batch or len(x)
    with torch.no_grad():
        found = x.clone()
        pairs = zip(x.split(size), y.split(size), strict=True)
        standing = torch.cat([network(a).argmax(1) == b for a, b in pairs])
        for attempt in attempts:
            left = standing.nonzero().squeeze(1)
            for some in left.split(size) if len(left) else ():
                points, broken = attempt(x[some], y[some])
                fallen = some[broken]
                found[fallen] = points[broken]
                standing[fallen] = False
    return found


def judged(network: Any, perturb: Perturb) -> Attempt:
    """The attack as an attempt: a fresh prediction says which of its points count."""

    def attempt(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        points = perturb(x, y)
        return points, network(points).argmax(1) != y

    return attempt


def rival(network: Any, x: Tensor, rank: int) -> Tensor:
    """The class `[B]` of the clean images that comes `rank` places behind the first."""
    return network(x).topk(rank + 1, dim=1).indices[:, rank]


def ranks(classes: int) -> range:
    """AutoAttack's 9 targets, fewer where there are not as many wrong classes."""
    return range(1, min(9, classes - 1) + 1)


def rows(mask: Tensor) -> Tensor:
    """A bool per image `[B]` in a shape that selects whole images, `[B, 1, 1, 1]`."""
    return mask[:, None, None, None]
