"""Running the growing attack, and reading radii and accuracies off its reports."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxrobust import evaluation, sinkhorn
from jaxrobust.data import to_inputs
from jaxrobust.evaluation import Curve, Report
from jaxrobust.types import Attack

from ..common.trained import predictions
from .lp import exact_distance
from .recipes import Growth, Plans, Setting
from .subjects import Subject

WIDENED = 1 + 1e-3
"""Rounding of the measured norms: a radius reaches so much further."""


def digits(value: float) -> str:
    """A radius as text: tables show other numbers with two decimals, too few for small balls."""
    return f"{value:.4g}"


@dataclasses.dataclass(frozen=True)
class Run:
    """What all evaluations of a study share."""

    setting: Setting
    folder: Path
    seed: int
    batch_size: int
    progress: bool

    def attack(self, subject: Subject, attacks: Mapping[str, Attack]) -> Report:
        """Attacks the subject's examples, batch by batch resumed, and keeps the points found."""
        return evaluation.evaluate(
            jax.random.key(self.seed),
            subject.model,
            subject.variables,
            subject.examples,
            attacks,
            batch_size=self.batch_size,
            keep_examples=True,
            folder=self.folder / "batches" / subject.name,
            metadata={"model": subject.name},
            progress=self.progress,
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Broken:
    """A subject under the growing attack with some transport plans."""

    subject: Subject
    plans: Plans
    growth: Growth
    report: Report

    @property
    def norms(self) -> np.ndarray:
        """float64 `[N]`: distance of the point found; infinite where none fools."""
        attack = self.report.attacks[self.plans.name]
        return np.where(attack.margin < 0, np.inf, attack.norm)

    @property
    def points(self) -> np.ndarray:
        """`[N, H, W, C]`: the attack's points."""
        return self.report.attacks[self.plans.name].examples

    @property
    def radii(self) -> np.ndarray:
        """float64 `[N]`: the first radius of the schedule that holds the point; infinite if none.

        It may lie below the radius at which the point was found, which a blurred plan exhausts
        sooner than the best one. A misclassified clean image has the smallest of all, as in the
        released code.
        """
        schedule = np.append(self.growth.radii, np.inf)
        # A norm of NaN is of no use to an adversary.
        norms = np.nan_to_num(self.norms / WIDENED, nan=np.inf)
        return schedule[np.searchsorted(schedule, norms)]

    @property
    def plan_costs(self) -> np.ndarray:
        """float64 `[N]`: radius of the ball that the point was projected on; infinite if none.

        The cost of its own, blurred plan: what the released code records, and never less than the
        distance.
        """
        attack = self.report.attacks[self.plans.name]
        # The last step of an example only sees that it is fooled, unless steps ran out.
        moved = np.where(attack.gradients < self.growth.steps, attack.gradients - 2, np.inf)
        last = np.clip(moved, 0, self.growth.steps - 1).astype(int)
        return np.where(attack.margin < 0, np.inf, self.growth.radii[last // self.growth.every])

    def costly(self, radii: Sequence[float]) -> dict[str, float]:
        """Accuracy in % at the radii when every point counts with its plan's cost."""
        left = {r: self.report.clean & (self.plan_costs > r * WIDENED) for r in radii}
        return {f"at {r:g}": 100 * float(mask.mean()) for r, mask in left.items()}

    @property
    def unmeasured(self) -> int:
        """How many images are fooled by a point whose distance is unknown; they count as robust."""
        fooled = ~(self.report.attacks[self.plans.name].margin < 0)
        return int((fooled & ~np.isfinite(self.norms)).sum())

    @property
    def found(self) -> np.ndarray:
        """bool `[N]`: classified correctly, and broken within the schedule."""
        return self.report.clean & np.isfinite(self.radii)

    def curve(self, radii: Sequence[float]) -> Curve:
        """Robust accuracy at the radii."""
        radii = np.asarray(radii, np.float64)
        measured = evaluation.curve_of_norms(self.report, self.plans.name, radii * WIDENED)
        return dataclasses.replace(measured, radii=radii)

    def accuracies(self, radii: Sequence[float]) -> dict[str, float | None]:
        """In %, at 0 and at the radii; None beyond the schedule's last, where nothing was tried."""
        last = self.growth.radii[-1] * WIDENED
        found = zip(radii, self.curve(radii).accuracies.tolist(), strict=True)
        shown = {f"at {r:g}": accuracy if r <= last else None for r, accuracy in found}
        return {"at 0": self.report.clean_accuracy, **shown}

    @property
    def median(self) -> str | None:
        """The median radius of the images broken."""
        found = self.radii[self.found]
        return digits(np.median(found)) if found.size else None

    def told(self, index: int) -> str:
        """What the attack made of an image, for the title above its picture."""
        radius = self.radii[index]
        if not np.isfinite(radius):
            return "not found"
        predicted = predictions(
            self.subject.model, self.subject.variables, self.points[index][None]
        )[0]
        return f"eps {radius:.2g}, as {predicted}"


def broken(run: Run, subject: Subject, plans: Plans) -> Broken:
    """The subject under the study's attack with these plans."""
    growth = run.setting.test
    attack = growth.attack(plans, run.setting.step_size)
    return Broken(subject, plans, growth, run.attack(subject, {plans.name: attack}))


def clean_accuracy(run: Run, subject: Subject) -> float:
    """In %, over the whole test split."""
    report = evaluation.evaluate(
        jax.random.key(run.seed),
        subject.model,
        subject.variables,
        subject.test,
        {},
        batch_size=500,
        progress=False,
    )
    return report.clean_accuracy


def distances(results: Broken, count: int) -> list[dict[str, Any]]:
    """A row for each of the first `count` images broken: its plan's cost, bounds, distance."""
    cost = results.plans.cost
    bound = jax.jit(functools.partial(sinkhorn.distance, cost=cost))
    rows = []
    for index in np.flatnonzero(results.found)[:count]:
        x = to_inputs(results.subject.examples.x[index])
        z = results.points[index]
        bounds = bound(x, z)
        rows.append(
            {
                "method": f"{results.subject.name}, image {index}",
                "plan cost": digits(results.plan_costs[index]),
                "dual bound": digits(bounds.lower),
                "estimate": digits(bounds.estimate),
                "exact distance": digits(exact_distance(np.asarray(x), z, cost)),
            }
        )
    return rows
