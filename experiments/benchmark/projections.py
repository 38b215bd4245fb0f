"""The projection onto a Wasserstein ball: this library beside the published way in PyTorch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import losses, sinkhorn
from jaxrobust.types import Array

from . import torch_sinkhorn
from .subject import Subject
from .timing import Entrant, Skipped

PPM = 1e6
"""Errors are shown in millionths: the tables have two decimals."""
_TRUTH = 1e-9
"""Tolerance of the float64 solution that errors are measured from."""


class Ball(NamedTuple):
    """What to project onto, around each image."""

    radius: float
    lam: float
    cost: np.ndarray
    """The window of transport costs."""


class Case(NamedTuple):
    """Images, where they moved to, and their projections in float64; `[N, H, W, 1]`."""

    x: np.ndarray
    w: np.ndarray
    truth: np.ndarray


class Answer(NamedTuple):
    """One side's projections and its own evidence; one row per image."""

    z: np.ndarray
    residual: np.ndarray
    """l1 distance between column sums and the multipliers' image, in image masses."""
    cost: np.ndarray
    """<P, C> of the plan to z."""
    rounds: np.ndarray


def case(subject: Subject, ball: Ball, step_size: float) -> Case:
    """The subject's images, moved by `step_size` along the sign of the cross-entropy's gradient."""
    f = subject.model.logits_fn(subject.variables)

    def moved(x: Array, y: Array) -> Array:
        slope = jax.grad(lambda x: losses.cross_entropy(f(x), y))(x)
        return x + jnp.asarray(step_size, x.dtype) * jnp.sign(slope)

    x = subject.x
    w = np.asarray(jax.jit(jax.vmap(moved))(jnp.asarray(x), jnp.asarray(subject.y)))
    with jax.enable_x64(True):
        found = solver(sinkhorn.projected, ball, tolerance=_TRUTH, steps=200)(
            *(jnp.asarray(a, jnp.float64) for a in (x, w))
        )
        return Case(x, w, np.asarray(found.z))


def solver(
    solve: Callable[..., sinkhorn.Projection], ball: Ball, **options: Any
) -> Callable[[Array, Array], sinkhorn.Projection]:
    """One of the library's solvers over a batch, compiled; pixels have no upper bound."""

    def one(x: Array, w: Array) -> sinkhorn.Projection:
        return solve(x, w, radius=ball.radius, lam=ball.lam, cost=ball.cost, **options)

    return jax.jit(jax.vmap(one))


def evidence(case: Case, ball: Ball, answer: Answer) -> dict[str, float]:
    """The figures of one side, of the worst image where not said otherwise.

    An image's error is |z - z64| / |z64 - x| in l2, z64 the float64 solution. "mass ppm" is what
    its total has changed by.
    """
    x, z = case.x.astype(np.float64), answer.z.astype(np.float64)
    norm = lambda v: np.sqrt(np.sum(v**2, axis=(1, 2, 3)))  # noqa: E731
    way = norm(case.truth - x)
    error = norm(z - case.truth) / np.where(way > 0, way, 1)
    mass, total = (np.sum(v, axis=(1, 2, 3)) for v in (x, z))
    return {
        "error ppm": PPM * float(np.max(error)),
        "residual ppm": PPM * float(np.max(answer.residual)),
        "cost": float(np.max(answer.cost)),
        "mass ppm": PPM * float(np.max(np.abs(total - mass) / np.where(mass > 0, mass, 1))),
        "rounds": float(np.mean(answer.rounds)),
    }


def entrants(
    case: Case, ball: Ball, *, tolerance: float, peers: Sequence[float], device: str | None
) -> tuple[list[Entrant], list[Skipped]]:
    """Our two solvers at `tolerance`, and the PyTorch iteration at each of `peers`.

    `device` is PyTorch's; it is skipped where that is None.
    """
    inputs = [jnp.asarray(a) for a in (case.x, case.w)]
    figures = functools.partial(evidence, case, ball)

    def ours(name: str, solve: Callable[..., sinkhorn.Projection], **how: Any) -> Entrant:
        program = solver(solve, ball, tolerance=tolerance)

        def read(found: sinkhorn.Projection) -> dict[str, float]:
            info = found.info
            parts = (found.z, info.residual, info.cost, info.iterations)
            return figures(Answer(*(np.asarray(part) for part in parts)))

        return Entrant(name, lambda: jax.block_until_ready(program(*inputs)), read, **how)

    sides = [
        ours("jaxrobust", sinkhorn.projected),
        ours("ours, published", sinkhorn.block_ascent, same=False),
    ]
    if device is None:
        return sides, [torch_sinkhorn.ABSENT]
    for level in peers:
        run = _peer(case, ball, level, device)
        sides += [
            Entrant(f"PyTorch {level:.0e} ({threads})", team, figures)
            for threads, team in torch_sinkhorn.teams(run, device).items()
        ]
    return sides, []


def _peer(case: Case, ball: Ball, tolerance: float, device: str) -> Callable[[], Answer]:
    import torch

    mass = np.sum(case.x, axis=(1, 2, 3), keepdims=True)
    mass = np.where(mass > 0, mass, 1)
    x, w = (torch.from_numpy(np.array(a / mass)[..., 0]).to(device) for a in (case.x, case.w))

    def run() -> Answer:
        found = torch_sinkhorn.projected(
            x, w, radius=ball.radius, lam=ball.lam, cost=ball.cost, tolerance=tolerance
        )
        z, *rest = (part.cpu().numpy() for part in found)
        return Answer(z[..., None] * mass, *rest)

    return run
