"""Exact robust accuracy of trained runs, by integer programs (Wong's thesis, section 4.2.1)."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from jaxrobust.data import Split
from jaxrobust.evaluation import accuracy
from jaxrobust.threats import Linf
from jaxrobust.types import Model

from ..common.integer_programs import verdicts
from ..common.rows import Outcome


@dataclasses.dataclass(frozen=True)
class Question:
    """What integer programs are asked of every run."""

    threat: Linf
    attack: str
    """The column that attacked the same set: what it broke needs no program."""
    images: int
    """The first so many test images."""
    time_limit: float
    """Seconds per image."""


def verify(
    outcome: Outcome, question: Question, model: Model, examples: Split, folder: Path
) -> dict[str, float]:
    """Shares in % of the first images: robust to the attack, verified, undecided in time.

    The exact robust accuracy lies between the second and the sum of the last two. Answers are kept
    in the run's `folder`.
    """
    survived = outcome.report.attacks[question.attack].robust[: question.images]
    name = f"exact_eps{question.threat.radius:g}_{question.time_limit:g}s.json"
    found = verdicts(
        folder / name,
        model.logits_fn(outcome.variables),
        examples,
        np.flatnonzero(survived).tolist(),
        question.threat,
        time_limit=question.time_limit,
    )
    return shares(survived, {i: verdict.status for i, verdict in found.items()})


def shares(survived: np.ndarray, statuses: dict[int, str]) -> dict[str, float]:
    """The shares of `verify` from the attack's survivors `[N]` and the programs' statuses."""

    def of(status: str) -> np.ndarray:
        return np.asarray([statuses.get(i) == status for i in range(len(survived))])

    count = len(survived)
    return {
        f"PGD ({count})": accuracy(survived),
        f"verified ({count})": accuracy(of("certified")),
        f"undecided ({count})": accuracy(of("undecided")),
    }
