"""Attacking and certifying a subject, and checking each against the other."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxrobust import evaluation
from jaxrobust.data import Split
from jaxrobust.evaluation import Report
from jaxrobust.evaluation.certified import CertifiedReport, Certifier, certified, deterministic
from jaxrobust.evaluation.sandwich import Sandwich, sandwich

from ..common.attack_menu import Budget, make_attacks
from .certifiers import (
    CERTIFICATES,
    OPTIMIZED,
    TIGHTEST,
    WidestRadius,
    optimized,
)
from .recipes import Setting
from .subjects import Subject

SLOPE_STEPS = 20
"""Steps of the search for slopes."""
RADIUS_STEPS = 12
"""Steps of the bisection for the largest radius."""


@dataclasses.dataclass(frozen=True, eq=False)
class Measured:
    """What attacks and bounds found of one subject."""

    subject: Subject
    report: Report
    certified: Mapping[str, CertifiedReport]
    """Certified by method, from loosest to tightest."""

    @property
    def tightest(self) -> CertifiedReport:
        """The certificates of the last method."""
        return list(self.certified.values())[-1]

    @property
    def sandwich(self) -> Sandwich:
        """The tightest certificates below the attacks; raises where one contradicts the other."""
        return sandwich(self.report, self.tightest)

    @property
    def errors(self) -> dict[str, float]:
        """In %: misclassified, broken by each attack, and not certified by each method."""
        broken = {name: 100 - attack.accuracy for name, attack in self.report.attacks.items()}
        unproved = {name: 100 - found.accuracy for name, found in self.certified.items()}
        return {"Clean": 100 - self.report.clean_accuracy, **broken, **unproved}


@dataclasses.dataclass(frozen=True)
class Run:
    """What all evaluations of a study share. Each saves its batches and resumes."""

    setting: Setting
    folder: Path
    attacks: Sequence[str]
    """Names in the menu of attacks."""
    certificates: Sequence[str]
    batch_size: int
    progress: bool

    def _options(self, *parts: str) -> dict[str, Any]:
        return {
            "batch_size": self.batch_size,
            "progress": self.progress,
            "folder": self.folder.joinpath("batches", *parts),
        }

    def attack(self, subject: Subject) -> Report:
        """Runs the attacks on every example."""
        steps, radius = self.setting.attack_steps, subject.row.radius
        budget = Budget(steps=steps, step_size=radius / 10)
        suite = make_attacks(self.attacks, self.setting.norm, radius, budget)
        return evaluation.evaluate(
            jax.random.key(subject.seed),
            subject.model,
            subject.variables,
            subject.examples,
            suite,
            metadata={"model": subject.name},
            **self._options("attacks", subject.name),
        )

    def certify(
        self, subject: Subject, name: str, certifier: Certifier = deterministic, **options: Any
    ) -> CertifiedReport:
        """Certifies every example; `name` tells the certificates' folder."""
        return certified(
            subject.model,
            subject.variables,
            subject.examples,
            subject.threat,
            certifier=certifier,
            metadata={"model": subject.name, "certificates": name},
            options={"chunk": self.setting.chunk, **options},
            **self._options(name.replace(" ", "-"), subject.name),
        )

    def measure(self, subject: Subject) -> Measured:
        """Attacks and certificates, tighter ones later.

        Raises:
          SandwichError: an example that is certified by some method was broken.
        """
        report = self.attack(subject)
        found = {
            name: self.certify(subject, name, **options)
            for name, options in CERTIFICATES.items()
            if name in self.certificates
        }
        if OPTIMIZED in self.certificates:
            start = found.get(TIGHTEST) or self.certify(subject, TIGHTEST)
            found[OPTIMIZED] = self._optimized(subject, report, start)
        for proofs in found.values():
            sandwich(report, proofs)
        return Measured(subject, report, found)

    def _optimized(
        self, subject: Subject, report: Report, start: CertifiedReport
    ) -> CertifiedReport:
        """`start` with what optimized slopes prove of the examples that nothing decided."""
        rows = np.flatnonzero(report.worst_case & ~start.certified)
        if not rows.size:
            return start
        # Whole batches, so that every subject runs the same program.
        filled = np.resize(rows, -(-rows.size // self.batch_size) * self.batch_size)
        x, y = subject.examples
        undecided = subject._replace(examples=Split(x[filled], y[filled]))
        found = self.certify(undecided, OPTIMIZED, optimized, steps=SLOPE_STEPS)
        fields = {}
        for name in ("certified", "lower", "margin"):
            fields[name] = np.array(getattr(start, name))
            fields[name][rows] = getattr(found, name)[: rows.size]
        return dataclasses.replace(start, **fields)

    def radii(self, subject: Subject, upper: float) -> tuple[np.ndarray, np.ndarray]:
        """The largest certified radii of the predictions, and whether those are right; `[N]`."""
        search = WidestRadius(
            threat=subject.threat, upper=upper, steps=RADIUS_STEPS, chunk=self.setting.chunk
        )
        report = evaluation.evaluate(
            jax.random.key(0),
            subject.model,
            subject.variables,
            subject.examples.first(self.setting.radii),
            {"radius": search},
            metadata={"model": subject.name},
            **self._options("radii", subject.name),
        )
        return report.attacks["radius"].norm, report.clean
