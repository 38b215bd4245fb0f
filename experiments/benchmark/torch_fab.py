"""FAB-T (linf) by the algorithm of the authors' AutoAttack, written in PyTorch.

PyTorch is imported inside the functions: the benchmark runs without it.
"""

from __future__ import annotations

from typing import Any

from .settings import Settings
from .torch_survivors import Attempt, in_turn, ranks, rival, rows
from .twin import Perturb, Tensor, Twin

ALPHA_MAX = 0.1
ETA = 1.05
BETA = 0.9
FLOOR = 1e-8
"""Least length of a move where two are compared."""


def fab_t(twin: Twin, settings: Settings) -> Perturb:
    """FAB at 9 targets in turn; only a point within the radius counts and ends an image."""

    def toward(rank: int) -> Attempt:
        def attempt(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            target = rival(twin.network, x, rank)
            points, distance = walk(twin.network, x, y, target, steps=settings.steps)
            return points, distance <= settings.epsilon

        return attempt

    attempts = [toward(rank) for rank in ranks(twin.classes)]
    return lambda x, y: in_turn(twin.network, attempts, x, y)


def walk(
    network: Any, x: Tensor, y: Tensor, target: Tensor, *, steps: int
) -> tuple[Tensor, Tensor]:
    """The closest misclassified point of each image's walk, and its linf distance.

    Croce & Hein 2020 (arXiv:1907.02044), Algorithm 1, toward one class, as in the released code
    without a last search. The moves of the current and the clean point are solved in one call.

    Args:
      network: images -> logits.
      x: images `[B, C, H, W]`.
      y: labels `[B]`.
      target: classes `[B]` whose boundary with the label's is walked along.
      steps: 100 in AutoAttack.

    Returns:
      Points `[B, C, H, W]` and distances `[B]`, the clean image and inf where nothing was found.
    """
    import torch

    def linearize(z: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            z = z.detach().requires_grad_(True)
            logits = network(z)
            theirs, mine = (logits.gather(1, c[:, None]).squeeze(1) for c in (target, y))
            gap = theirs - mine
            (gradient,) = torch.autograd.grad(gap.sum(), z)
        return gap.detach(), gradient.flatten(1)

    found, distance = x, torch.full((len(x),), float("inf"), dtype=x.dtype, device=x.device)
    flat, z = x.flatten(1), x.flatten(1)
    for _ in range(steps):
        gap, weights = linearize(z.view_as(x))
        # <w, d> = -gap from the current point; seen from the clean one the plane is elsewhere.
        home = -gap - (weights * (flat - z)).sum(1)
        changes = torch.cat([-gap, home])
        moves = shortest(torch.cat([z, flat]), torch.cat([weights, weights]), changes)
        ahead, back = moves.split(len(x))
        lengths = moves.abs().amax(1, keepdim=True).clamp(min=FLOOR)
        near, far = lengths.split(len(x))
        alpha = (near / (near + far)).clamp(max=ALPHA_MAX)
        z = ((1 - alpha) * (z + ETA * ahead) + alpha * (flat + ETA * back)).clamp(0, 1)
        wrong = network(z.view_as(x)).argmax(1) != y
        length = (z - flat).abs().amax(1)
        closer = wrong & (length < distance)
        found = torch.where(rows(closer), z.view_as(x), found)
        distance = torch.where(closer, length, distance)
        z = torch.where(wrong[:, None], flat + BETA * (z - flat), z)
    return found, distance


def shortest(points: Tensor, weights: Tensor, change: Tensor) -> Tensor:
    """Moves d of least max|d| with <w, d> = change and points + d in [0, 1]: FAB's projection.

    Every coordinate moves by the same level, or as far as the box lets it. Sorted by their room,
    coordinates stop one by one as the level rises; what they spend then, at each stop, is a
    cumulative sum, in which the change is looked up. A change out of reach moves all to the box.

    Args:
      points: `[B, n]` in [0, 1].
      weights: `[B, n]`; a coordinate of weight 0 stays.
      change: `[B]`.

    Returns:
      Moves `[B, n]`.
    """
    import torch

    up = weights.sign() * change.sign()[:, None]
    room = torch.where(up > 0, 1 - points, points)
    stops, order = room.sort(dim=1)
    weight = weights.abs().gather(1, order)
    share = weight * stops
    stopped = share.cumsum(1)
    moving = weight.sum(1, keepdim=True) - weight.cumsum(1)
    budget = change.abs()[:, None]
    place = torch.searchsorted(stopped + stops * moving, budget).clamp(max=room.shape[1] - 1)
    # The level lies between the stops `place` - 1 and `place`, where that one still moves.
    spent = (stopped - share).gather(1, place)
    slope = (moving + weight).gather(1, place).clamp(min=torch.finfo(room.dtype).tiny)
    level = torch.minimum((budget - spent) / slope, stops.gather(1, place)).clamp(min=0)
    return up * torch.minimum(level, room)
