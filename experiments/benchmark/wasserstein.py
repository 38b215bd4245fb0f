"""The attack on Wasserstein balls: this library beside the published one in PyTorch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxrobust import attacks
from jaxrobust.threats import Linf, Wasserstein

from . import judging, torch_sinkhorn
from .judging import Judge
from .projections import PPM, Ball
from .subject import Subject
from .timing import Entrant, Skipped
from .twin import runner, twin

RADIUS, FACTOR, EVERY = 0.3, 1.1, 10
"""The first radius, and how it grows (Wong's thesis, section 5.2)."""
TOLERANCE = 1e-4
"""Tolerance of the PyTorch projections; that of `Wasserstein.project`."""
NOTE = "projects from a cold start, clips afterwards: out of the set by the mass that it loses"


def entrants(
    target: Subject, ball: Ball, *, count: int, step_size: float, steps: int, device: str | None
) -> tuple[list[Entrant], list[Skipped]]:
    """Both sides on the first `count` images, and ours on all.

    `ball` says with what entropy and window to project; its radius is not used. `device` is
    PyTorch's, which is skipped where that is None.
    """
    first = Wasserstein(RADIUS, lam=ball.lam, cost=ball.cost)
    last = dataclasses.replace(first, radius=RADIUS * FACTOR ** ((steps - 1) // EVERY))
    shared = {"factor": FACTOR, "every": EVERY, "steps": steps, "step_size": step_size}
    ascent = attacks.growing(first, step=Linf(1.0), **shared)

    def ours(name: str, some: Subject, verdict: Judge) -> Entrant:
        return judging.ours(name, some, {name: ascent}, verdict, batch=len(some.x), seed=0)

    few = target._replace(x=target.x[:count], y=target.y[:count])
    verdict, skipped = judge(few, last), []
    sides = [ours("jaxrobust", few, verdict)]
    if device is None:
        skipped = [torch_sinkhorn.ABSENT]
    else:
        other = twin(few, device)
        perturb = torch_sinkhorn.growing(
            other, radius=RADIUS, lam=ball.lam, cost=ball.cost, tolerance=TOLERANCE, **shared
        )

        def figures(points: np.ndarray) -> dict[str, float | None]:
            return {**verdict(points), "forwards": other.seen[0] / len(points)}

        run = runner(perturb, other, few, batch=len(few.x), seed=0)
        sides += [
            Entrant(f"PyTorch ({threads})", team, figures, note=NOTE)
            for threads, team in torch_sinkhorn.teams(run, device).items()
        ]
    if len(target.x) > count:
        whole = ours(f"ours on {len(target.x)}", target, judge(target, last))
        sides.append(whole._replace(same=False))
    return sides, skipped


def judge(target: Subject, threat: Wasserstein) -> Callable[[np.ndarray], dict[str, Any]]:
    """`judging.judge`, and what it refuses: "fooled %" counts points outside of the set, too.

    "mass ppm" is what the total of an image has changed by, of the worst one: the set allows 10.
    """
    verdict = judging.judge(target, threat, minimum=True)

    def figures(points: np.ndarray) -> dict[str, Any]:
        logits, _ = target.model.apply(target.variables, points, train=False)
        mass, total = (np.sum(a, axis=(1, 2, 3), dtype=np.float64) for a in (target.x, points))
        off = np.abs(total - mass) / np.where(mass > 0, mass, 1)
        return {
            "images": len(points),
            "fooled %": 100 * float(np.mean(np.argmax(logits, axis=1) != target.y)),
            **verdict(points),
            "mass ppm": PPM * float(np.max(off)),
        }

    return figures
