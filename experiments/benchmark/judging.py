"""This library's side of an attack benchmark, and one judge for the points of every side."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jaxrobust import attacks, losses
from jaxrobust.evaluation import Report, accuracy, evaluate
from jaxrobust.types import Array, Attack, AttackResult, PyTree, ThreatModel

from . import memory
from .subject import Subject
from .timing import Entrant

Judge = Callable[[np.ndarray], dict[str, float | None]]
"""Points `[N, H, W, C]` -> "robust %" and, of a minimum-norm attack, "median norm"."""


def judge(subject: Subject, threat: ThreatModel, *, minimum: bool) -> Judge:
    """Judges any side's points by a fresh prediction of our network and our threat set.

    An image is robust when it is clean-correct and its point lies outside the set or is still
    predicted as the label. The median norm is over clean-correct images, infinite (None) where
    half of them or more were not fooled at any distance.
    """

    @jax.jit
    def program(variables: PyTree, x: Array, y: Array, points: Array) -> AttackResult:
        f = subject.model.logits_fn(variables)

        def one(x: Array, y: Array, z: Array) -> AttackResult:
            return attacks.judge(f, threat, x, y, z, losses.margin, forwards=0, backwards=0)

        return jax.vmap(one)(x, y, points)

    fresh = lambda points: program(subject.variables, subject.x, subject.y, points)  # noqa: E731
    clean = ~np.asarray(fresh(subject.x).success)

    def figures(points: np.ndarray) -> dict[str, float | None]:
        found = jax.device_get(fresh(points.astype(np.float32)))
        verdict: dict[str, float | None] = {"robust %": accuracy(clean & ~found.success)}
        if minimum:
            distance = np.where(found.margin < 0, np.inf, found.norm)[clean]
            median = float(np.median(distance)) if distance.size else float("inf")
            verdict["median norm"] = median if np.isfinite(median) else None
        return verdict

    return figures


def ours(
    name: str,
    subject: Subject,
    suite: Mapping[str, Attack],
    verdict: Judge,
    *,
    batch: int,
    seed: int,
) -> Entrant:
    """This library's attack, over all devices; a suite of several runs over survivors."""
    key, several = jax.random.key(seed), len(suite) > 1

    def run() -> Report:
        return evaluate(
            key,
            subject.model,
            subject.variables,
            (subject.x, subject.y),
            suite,
            batch_size=batch,
            survivors=several,
            keep_examples=True,
            progress=False,
        )

    def figures(report: Report) -> dict[str, Any]:
        points, standing = subject.x.copy(), report.clean
        for found in report.attacks.values():
            # A search of the least perturbation is judged by all of its points.
            taken = standing & ~found.robust if several else np.ones_like(standing)
            points[taken] = found.examples[taken]
            standing = found.robust
        costs = {
            side: sum(getattr(found, side) for found in report.attacks.values())
            for side in ("forwards", "backwards")
        }
        return {**verdict(points), **costs}

    return Entrant(name, run, figures, meter=memory.ours())
