"""Square (linf) by the algorithm of the authors' AutoAttack, written in PyTorch.

PyTorch is imported inside the functions: the benchmark runs without it.
"""

from __future__ import annotations

import math
from typing import Any

from .settings import Settings
from .torch_survivors import in_turn, rows
from .twin import Perturb, Tensor, Twin

SHARE = 0.8
"""Share of the image that the first windows cover."""
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Queries after which a window's area halves. AutoAttack takes them as they stand for its 5,000
queries: it turns off the code's own rescaling to the number of queries."""


def square(twin: Twin, settings: Settings) -> Perturb:
    """Square on the images predicted as their labels."""

    def attempt(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return search(twin.network, x, y, epsilon=settings.epsilon, queries=settings.queries)

    return lambda x, y: in_turn(twin.network, [attempt], x, y)


def side(query: int, pixels: int) -> int:
    """Side of the window of a query (from 0) in an image of so many pixels."""
    halved = sum(query > last for last in HALVINGS)
    return max(round(math.sqrt(SHARE * pixels / 2**halved)), 1)


def search(
    network: Any, x: Tensor, y: Tensor, *, epsilon: float, queries: int
) -> tuple[Tensor, Tensor]:
    """The best point queried for each image, and which are misclassified.

    Andriushchenko et al. 2020, Algorithm 2: vertical stripes, then windows at one end of the
    range, kept where the margin falls or is 0 or less. As in the released code a query has one
    window and one sign a channel for the whole batch, which never reaches the last row or column
    (unless it is all of them), and only images not fooled yet are queried. They are packed again
    when one falls, so that a query waits for the host once.

    Args:
      network: images -> logits.
      x: images `[B, C, H, W]`.
      y: labels `[B]`.
      epsilon: radius of the linf ball, in pixels of [0, 1].
      queries: 5,000 in AutoAttack, the stripes not counted.

    Returns:
      Points `[B, C, H, W]` and bool `[B]`.
    """
    import torch

    def margin(z: Tensor, y: Tensor) -> Tensor:
        logits = network(z)
        label = y[:, None]
        others = logits.scatter(1, label, float("-inf")).amax(1)
        return logits.gather(1, label).squeeze(1) - others

    _, channels, height, width = x.shape
    ends = (x - epsilon).clamp(min=0), (x + epsilon).clamp(max=1)
    stripes = torch.rand((len(x), channels, 1, width), device=x.device) < 0.5
    found = torch.where(stripes, *ends)
    least = margin(found, y)
    # On the host, all at once: windows are slices, which no device has to tell.
    draws = torch.rand(queries, 2 + channels).tolist()

    left = (least > 0).nonzero().squeeze(1)
    best, value, label, (low, high) = found[left], least[left], y[left], (e[left] for e in ends)
    for query, (down, right, *signs) in enumerate(draws):
        if not len(left):
            break
        length = min(side(query, height * width), height, width)
        top, start = int(down * (height - length)), int(right * (width - length))
        place = slice(top, top + length), slice(start, start + length)
        z = best.clone()
        for channel, sign in enumerate(signs):
            z[:, channel, *place] = (low if sign < 0.5 else high)[:, channel, *place]
        new = margin(z, label)
        better = (new < value) | (new <= 0)
        best = torch.where(rows(better), z, best)
        value = torch.where(better, new, value)
        keep = value > 0
        if not keep.all():
            found[left], least[left] = best, value
            left, best, value, label = left[keep], best[keep], value[keep], label[keep]
            low, high = low[keep], high[keep]
    found[left] = best
    return found, least <= 0
