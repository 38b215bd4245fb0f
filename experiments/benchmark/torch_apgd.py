"""APGD-CE and APGD-T (linf) by the algorithm of the authors' AutoAttack, written in PyTorch.

As fast as plain PyTorch makes it: no image leaves the batch, so that a step never waits for the
host, and signs are kept in place of gradients. PyTorch is imported inside the functions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .settings import Settings
from .torch_survivors import Attempt, in_turn, ranks, rival, rows
from .twin import Perturb, Tensor, Twin

Loss = Callable[[Tensor, Tensor], Tensor]
"""(logits `[B, K]`, labels `[B]`) -> what to climb, `[B]`."""

RHO = 0.75
MOMENTUM = 0.75


def apgd_ce(twin: Twin, settings: Settings) -> Perturb:
    """APGD on the cross-entropy, one random start."""
    import torch

    def loss(logits: Tensor, y: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(logits, y, reduction="none")

    def attempt(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return ascend(twin.network, loss, x, y, epsilon=settings.epsilon, steps=settings.steps)

    return lambda x, y: in_turn(twin.network, [attempt], x, y)


def apgd_t(twin: Twin, settings: Settings) -> Perturb:
    """APGD on the targeted DLR loss, at 9 targets in turn; needs 4 classes or more."""

    def toward(rank: int) -> Attempt:
        def attempt(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            loss = targeted_dlr(rival(twin.network, x, rank))
            return ascend(twin.network, loss, x, y, epsilon=settings.epsilon, steps=settings.steps)

        return attempt

    attempts = [toward(rank) for rank in ranks(twin.classes)]
    return lambda x, y: in_turn(twin.network, attempts, x, y)


def targeted_dlr(target: Tensor) -> Loss:
    """-(z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2 + 1e-12)."""

    def loss(logits: Tensor, y: Tensor) -> Tensor:
        top = logits.topk(4, dim=1).values
        mine, theirs = (logits.gather(1, c[:, None]).squeeze(1) for c in (y, target))
        return (theirs - mine) / (top[:, 0] - 0.5 * (top[:, 2] + top[:, 3]) + 1e-12)

    return loss


def windows(steps: int) -> dict[int, int]:
    """Step (from 1) after which the progress is checked -> the steps since the last check."""
    ends = {}
    length, end = max(int(0.22 * steps), 1), 0
    while (end := end + length) <= steps:
        ends[end] = length
        length = max(length - max(int(0.03 * steps), 1), max(int(0.06 * steps), 1))
    return ends


def ascend(
    network: Any, loss: Loss, x: Tensor, y: Tensor, *, epsilon: float, steps: int
) -> tuple[Tensor, Tensor]:
    """The latest misclassified iterate of each image, and which images had one.

    Croce & Hein 2020 (arXiv:2003.01690), Algorithm 1, with three habits of the released code: the
    first loss after the start is compared with 0, a jump to the best iterate keeps the iterate
    left behind for the momentum, and the last step's gradient is computed though nothing uses it.

    Args:
      network: images -> logits.
      loss: to climb.
      x: images `[B, C, H, W]`, predicted as their labels.
      y: labels `[B]`.
      epsilon: radius of the linf ball, in pixels of [0, 1].
      steps: 100 in AutoAttack.

    Returns:
      Points `[B, C, H, W]` and bool `[B]`; a point that no iterate beat is the start.
    """
    import torch

    def evaluate(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with torch.enable_grad():
            z = z.detach().requires_grad_(True)
            logits = network(z)
            value = loss(logits, y)
            (gradient,) = torch.autograd.grad(value.sum(), z)
        return value.detach(), gradient.sign(), logits.detach().argmax(1) != y

    low, high = (x - epsilon).clamp(min=0), (x + epsilon).clamp(max=1)
    noise = 2 * torch.rand_like(x) - 1
    largest = noise.abs().amax(dim=(1, 2, 3), keepdim=True)
    z = torch.clamp(x + epsilon * noise / largest, low, high)
    value, sign, fooled = evaluate(z)
    before, adversarial = z, z
    best, best_sign, most = z, sign, value
    last = torch.zeros_like(value)
    size = torch.full_like(rows(value), 2 * epsilon)
    rises = torch.zeros_like(value)
    checked, halved = most, torch.ones_like(fooled)
    checks = windows(steps)
    for step in range(1, steps + 1):
        weight = MOMENTUM if step > 1 else 1.0
        aim = torch.clamp(z + size * sign, low, high)
        moved = z + weight * (aim - z) + (1 - weight) * (z - before)
        before, z = z, torch.clamp(moved, low, high)
        value, sign, wrong = evaluate(z)
        adversarial = torch.where(rows(wrong), z, adversarial)
        fooled = fooled | wrong
        higher = value > most
        best = torch.where(rows(higher), z, best)
        best_sign = torch.where(rows(higher), sign, best_sign)
        most = torch.where(higher, value, most)
        rises = rises + (value > last)
        last = value
        if step in checks:
            few = rises <= RHO * checks[step]
            halved = few | (~halved & (checked >= most))
            checked = most
            size = torch.where(rows(halved), size / 2, size)
            z = torch.where(rows(halved), best, z)
            sign = torch.where(rows(halved), best_sign, sign)
            rises = torch.zeros_like(rises)
    return adversarial, fooled
