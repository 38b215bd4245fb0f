"""The study's figures."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ..common.rows import Outcome


def by_epoch(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """An outcome for each epoch judged, named after it."""
    return [
        dataclasses.replace(
            outcome,
            method=f"{outcome.method} {select}",
            reports={select: report},
            suites={s: suite for s, suite in outcome.suites.items() if s == select},
        )
        for name in dict.fromkeys(o.method for o in outcomes)
        for select in outcomes[0].reports
        for outcome in outcomes
        if outcome.method == name
        for report in (outcome.reports[select],)
    ]
