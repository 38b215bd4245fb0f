"""Undecided examples settled by integer programs, one by one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from experiments.certification.measure import Measured, Run
from experiments.certification.subjects import Subject
from jaxrobust.data import to_float
from jaxrobust.duals.exact import Exact, exact_margins
from jaxrobust.files import write_text_atomic

TIME_LIMIT = 60.0
"""Seconds per example."""


def settled(run: Run, measured: Measured) -> list[dict[str, Any]]:
    """A row for each of the first undecided images: what the integer program says of it.

    Within the pixel box, as the attacks; answers are saved as they come.
    """
    subject = measured.subject
    rows = np.flatnonzero(measured.sandwich.undecided)[: run.setting.exact]
    file = run.folder / "exact" / f"{subject.name}.json"
    held = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    missing = [i for i in rows.tolist() if str(i) not in held]
    for index, answer in zip(missing, _answers(run, subject, missing), strict=True):
        held[str(index)] = {"status": answer.status, "seconds": answer.seconds}
        write_text_atomic(file, json.dumps(held) + "\n")
    return [
        {"method": f"{subject.name}, image {i}", "exact": held[str(i)]["status"],
         "seconds": held[str(i)]["seconds"]}
        for i in rows.tolist()
    ]  # fmt: skip


def _answers(run: Run, subject: Subject, rows: Sequence[int]) -> Iterable[Exact]:
    if not rows:
        return ()
    return exact_margins(
        subject.model.logits_fn(subject.variables),
        to_float(subject.examples.x[rows]),
        subject.examples.y[rows],
        subject.threat,
        sign_only=True,
        time_limit=TIME_LIMIT,
        chunk=run.setting.chunk,
    )


def counted(answers: Sequence[dict[str, Any]]) -> str:
    """How many of the images were settled, and how."""
    kinds = [row["exact"] for row in answers]
    return ", ".join(f"{kinds.count(kind)} {kind}" for kind in ("certified", "broken", "undecided"))
