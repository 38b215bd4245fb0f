"""The published projected Sinkhorn iteration and its attack in PyTorch.

Written to be a fair opponent: batched, float32, on all cores, images dropped as they converge.
PyTorch is imported inside the functions: the benchmark runs without it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import numpy as np

from ..common.arithmetic import cores
from .timing import Skipped
from .twin import Perturb, Tensor, Twin

_EVERY = 10
"""Rounds between stopping tests, each of which sums over the plan once more."""
_OMEGA = 2
"""Quartic iterations for W: from these starts to the rounding of float64."""
ABSENT = Skipped("PyTorch", "torch not installed, see requirements-bench.txt")
"""What a table says where it is not."""
T = TypeVar("T")


def teams(run: Callable[[], T], device: str) -> dict[int, Callable[[], T]]:
    """`run` by number of threads: all cores, and one, which wins where images are few or small."""
    import torch

    def on(threads: int) -> Callable[[], T]:
        def go() -> T:
            torch.set_num_threads(threads)
            return run()

        return go

    return {count: on(count) for count in ((cores(), 1) if device == "cpu" else (cores(),))}


class Answer(NamedTuple):
    """Projections of a batch of images of mass 1, and their evidence."""

    z: Tensor
    """`[B, H, W]`, inside the balls and of mass 1."""
    residual: Tensor
    """l1 distance between the plan's column sums and the multipliers' image, `[B]`."""
    cost: Tensor
    """<P, C> of the plan from x to z, at most the radius, `[B]`."""
    rounds: Tensor
    """`[B]`."""


def wright_omega(y: Tensor) -> Tensor:
    """W(exp(y)) without forming exp(y): the root of omega + log omega = y, elementwise.

    The iteration of Fritsch, Shafer and Crowley (1973). Below y = -80, whose exponential float32
    hardly holds, the value at -80.
    """
    import torch

    y = y.clamp(min=-80)
    small = torch.exp(y.clamp(max=1))
    omega = torch.where(y > 1, y - torch.log(y.clamp(min=1)), small / (1 + small))
    for _ in range(_OMEGA):
        r = y - omega - torch.log(omega)
        above = 1 + omega
        near = 2 * above * (above + 2 * r / 3)
        omega = omega * (1 + r / above * (near - r) / (near - 2 * r))
    return omega


def projected(
    x: Tensor,
    w: Tensor,
    *,
    radius: float,
    lam: float,
    cost: np.ndarray,
    tolerance: float,
    steps: int = 5000,
) -> Answer:
    """Projects `w` onto the local Wasserstein balls around `x`, both `[B, H, W]` of mass 1.

    Wong's thesis, algorithm 8: a round sets alpha, then beta, then takes a Newton step on psi,
    halved until psi >= 0. Sums over the window are k x k shifted slices; exponentials are of beta
    less its maximum, and W is taken in the log domain, as float32 needs it.

    The test is that of `jaxrobust.sinkhorn`, on the plan of exact rows: column sums to
    `tolerance` of the mass that moves, budget to `tolerance`. The image then ends as there:
    z = P^T 1, drawn toward x by what the plan costs too much. The published test compares values
    of an objective called with two arguments exchanged.
    """
    import torch

    count, height, width = x.shape
    reach = len(cost) // 2
    c = torch.as_tensor(cost, dtype=x.dtype, device=x.device)

    def padded(v: Tensor) -> Tensor:
        return torch.nn.functional.pad(v, (reach, reach, reach, reach))

    def stencil(kernel: Tensor, v: Tensor) -> Tensor:
        """sum over delta of kernel[delta] v[i + delta]; also its transpose, as C is symmetric."""
        v, total = padded(v), torch.zeros_like(v)
        for a in range(len(cost)):
            for b in range(len(cost)):
                total.addcmul_(kernel[:, a, b, None, None], v[:, a : a + height, b : b + width])
        return total

    def plan(kernel: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Mass that the plan u_i K_ij v_j sends by each offset: `[B, k, k]`."""
        pairs = torch.nn.functional.conv2d(padded(v)[None], u[:, None], groups=len(u))
        return kernel * pairs[0].reshape(kernel.shape)

    answer = Answer(x.clone(), *(x.new_zeros(count) for _ in range(3)))
    left = torch.arange(count, device=x.device)
    with torch.no_grad():
        beta, psi = torch.full_like(x, -math.log(height * width)), x.new_ones(count)
        for k in range(steps):
            kernel = torch.exp(-psi[:, None, None] * c - 1)
            top = beta.amax((1, 2), keepdim=True)
            v = torch.exp(beta - top)
            u = x / stencil(kernel, v)  # exp(alpha + top)
            sums = stencil(kernel, u)
            last = k == steps - 1
            if k % _EVERY == 0 or last:
                sent, columns = plan(kernel, u, v), v * sums
                spent = (sent * c).sum((1, 2))
                moving = 1 - sent[:, reach, reach]
                residual = (w - beta / lam - columns).abs().sum((1, 2))
                over = torch.where((psi > 0) | (spent > radius), (spent - radius).abs(), 0 * spent)
                # Not `>`: NaN must stay.
                done = (residual <= tolerance * moving) & (over <= tolerance * radius)
                ready = done | last
                shrink = (radius / spent).clamp(max=1)
                z = x + shrink[:, None, None] * (columns - x)
                rounds = torch.full_like(spent, k)
                for whole, part in zip(answer, (z, residual, shrink * spent, rounds), strict=True):
                    whole[left[ready]] = part[ready]
                keep = ~ready
                if not keep.any():
                    break
                if ready.any():
                    left, x, w, beta, psi, kernel, top, u, sums = (
                        a[keep] for a in (left, x, w, beta, psi, kernel, top, u, sums)
                    )
            beta = lam * w - wright_omega(lam * w + math.log(lam) + torch.log(sums) - top)
            sent = plan(kernel, u, torch.exp(beta - top))
            rise = ((sent * c).sum((1, 2)) - radius) / (sent * c * c).sum((1, 2))
            t = torch.ones_like(psi)
            while (under := psi + t * rise < 0).any():
                t = torch.where(under, t / 2, t)
            psi = psi + t * rise
    return answer


def growing(
    twin: Twin,
    *,
    radius: float,
    factor: float,
    every: int,
    steps: int,
    step_size: float,
    lam: float,
    cost: np.ndarray,
    tolerance: float,
) -> Perturb:
    """The published attack: `jaxrobust.attacks.growing`'s loop around the published projection.

    Images are dropped once fooled. As published, every projection starts cold, knows no upper
    end of the pixels, and is clipped to [0, 1] afterwards, by which an image loses mass.
    """
    import torch

    def perturb(x: Tensor, y: Tensor) -> Tensor:
        z, mass = x.clone(), x.sum((1, 2, 3))
        left = torch.arange(len(x), device=x.device)
        for k in range(steps):
            here = z[left].requires_grad_(True)
            logits = twin.network(here)
            wrong = logits.detach().argmax(1) != y[left]
            loss = torch.nn.functional.cross_entropy(logits, y[left], reduction="sum")
            (gradient,) = torch.autograd.grad(loss, here)
            target = (here + step_size * gradient.sign()).detach()[~wrong]
            left = left[~wrong]
            if not len(left):
                break
            unit = mass[left, None, None]
            found = projected(
                x[left, 0] / unit,
                target[:, 0] / unit,
                radius=radius * factor ** (k // every),
                lam=lam,
                cost=cost,
                tolerance=tolerance,
            )
            z[left, 0] = (found.z * unit).clamp(0, 1)
        return z

    return perturb
