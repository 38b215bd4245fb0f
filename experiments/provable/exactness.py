"""Undecided examples settled by integer programs, one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..common.integer_programs import verdicts
from .measure import Measured, Run


def settled(run: Run, measured: Measured) -> list[dict[str, Any]]:
    """A row for each of the first undecided images: what the integer program says of it.

    Within the pixel box, as the attacks; answers are saved as they come.
    """
    subject = measured.subject
    rows = np.flatnonzero(measured.sandwich.undecided)[: run.setting.exact].tolist()
    held = verdicts(
        run.folder / "exact" / f"{subject.name}.json",
        subject.model.logits_fn(subject.variables),
        subject.examples,
        rows,
        subject.threat,
        chunk=run.setting.chunk,
    )
    return [
        {"method": f"{subject.name}, image {i}", "exact": held[i].status,
         "seconds": held[i].seconds}
        for i in rows
    ]  # fmt: skip


def counted(answers: Sequence[dict[str, Any]]) -> str:
    """How many of the images were settled, and how."""
    kinds = [row["exact"] for row in answers]
    return ", ".join(f"{kinds.count(kind)} {kind}" for kind in ("certified", "broken", "undecided"))
