"""Exact answers about the images that neither attack nor bound decides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax.numpy as jnp

from jaxrobust import duals
from jaxrobust.data import Split, to_inputs
from jaxrobust.evaluation import Sandwich
from jaxrobust.types import LogitsFn, ThreatModel

from ..common import integer_programs
from ..common.answers import Verdict, kept

STATUS = {"verified": "certified", "falsified": "broken", "unknown": "undecided"}
"""Words of branch and bound, and those of tables."""
SOLVERS = {"branch-and-bound": "branch and bound", "milp": "integer programs"}
"""Ways to an exact answer."""


def settled(
    folder: Path,
    f: LogitsFn,
    examples: Split,
    rows: Sequence[int],
    threat: ThreatModel,
    *,
    solver: str,
    time_limit: float,
    chunk: int | None,
) -> dict[int, Verdict]:
    """The verdict on each of the examples `rows`, by row; answers are kept in `folder`.

    Args:
      solver: one of `SOLVERS`.
      time_limit: seconds for each example. Another one may settle what this one leaves open, and
        has a file of its own.
    """
    file = folder / f"{solver}-{time_limit:g}s.json"
    if solver == "milp":
        return integer_programs.verdicts(
            file, f, examples, rows, threat, time_limit=time_limit, chunk=chunk
        )

    def asked(missing: list[int]) -> Iterator[Verdict]:
        for i in missing:
            found = duals.verify(
                f,
                jnp.asarray(to_inputs(examples.x[i])),
                int(examples.y[i]),
                threat,
                time_limit=time_limit,
                chunk=chunk,
            )
            yield Verdict(STATUS[found.status], found.seconds)

    return kept(file, rows, asked)


def exact_line(found: Sandwich, answers: Counter[str], solver: str) -> str:
    """What the solver settled, and what robust accuracy lies between then."""
    count = len(found.clean)
    lower = 100 * (found.certified.sum() + answers["certified"]) / count
    upper = 100 * (found.attacked.sum() - answers["broken"]) / count
    told = ", ".join(f"{answers[name]} {name}" for name in ("certified", "broken", "undecided"))
    return f"{SOLVERS[solver]}: {told}; robust accuracy from {lower:.2f} to {upper:.2f} %"
