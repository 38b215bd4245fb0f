"""Integer programs that settle what neither attack nor bound decides; answers are kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jaxrobust.data import Split, to_inputs
from jaxrobust.duals.exact import exact_margins
from jaxrobust.files import write_text_atomic
from jaxrobust.types import LogitsFn, ThreatModel

TIME_LIMIT = 60.0
"""Seconds per example."""


class Verdict(NamedTuple):
    """What an integer program said of an image."""

    status: str
    """See `duals.exact.Exact.status`."""
    seconds: float


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
    held = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    missing = [i for i in rows if str(i) not in held]
    answers = (
        exact_margins(
            f,
            to_inputs(examples.x[missing]),
            examples.y[missing],
            threat,
            sign_only=True,
            time_limit=time_limit,
            chunk=chunk,
        )
        if missing
        else ()
    )
    for index, answer in zip(missing, answers, strict=True):
        held[str(index)] = {"status": answer.status, "seconds": answer.seconds}
        write_text_atomic(file, json.dumps(held) + "\n")
    return {i: Verdict(**held[str(i)]) for i in rows}
