"""Integer programs that settle what neither attack nor bound decides; answers are kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from jaxrobust.data import Split, to_inputs
from jaxrobust.duals.exact import exact_margins
from jaxrobust.types import LogitsFn, ThreatModel

from .answers import Verdict, kept

TIME_LIMIT = 60.0
"""Seconds per example."""


def verdicts(
    file: Path,
    f: LogitsFn,
    examples: Split,
    rows: Sequence[int],
    threat: ThreatModel,
    *,
    time_limit: float = TIME_LIMIT,
    chunk: int | None = None,
) -> dict[int, Verdict]:
    """The integer program's verdict on each of the examples `rows`, by row.

    Answers are saved in `file` as they come and read from there; one file serves one network, set
    and time limit.
    """

    def asked(missing: list[int]) -> Iterator[Verdict]:
        answers = exact_margins(
            f,
            to_inputs(examples.x[missing]),
            examples.y[missing],
            threat,
            sign_only=True,
            time_limit=time_limit,
            chunk=chunk,
        )
        return (Verdict(answer.status, answer.seconds) for answer in answers)

    return kept(file, rows, asked)
