"""The table of the headline and its figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxrobust import figures

from ..common.clock import clock
from ..common.rows import Outcome
from ..common.tables import averaged, beside, remarks
from .judging import Found
from .methods import Row
from .recipes import COLUMNS


def table_of(
    rows: Sequence[Row],
    outcomes: Sequence[Outcome],
    found: Found,
    *,
    batch_size: int,
    flops: float,
    peak: float,
    published: Mapping[str, Sequence[float | None]] | None,
) -> list[dict[str, Any]]:
    """A row for each that was trained: accuracies, constraint, costs, published figures.

    Args:
      flops: of one image's forward pass. peak: operations a second of all devices together.
    """
    columns = dict.fromkeys(column for columns in found.values() for column in columns)
    table = []
    for row in rows:
        own = [o for o in outcomes if o.method == row.method.name]
        if not own:
            continue
        attacked = [found[o.method, o.seed] for o in own]
        # A mean over some of the seeds would stand beside means over all of them.
        whole = {c: all(c in run for run in attacked) for c in columns}
        figures_of = [
            {**o.accuracies, **{c: run[c] if whole[c] else None for c in columns}}
            for o, run in zip(own, attacked, strict=True)
        ]
        clocks = [clock(o.history, batch_size) for o in own]
        rate = float(np.mean([c.rate for c in clocks]))
        table.append(
            {
                "method": row.method.name,
                **averaged(figures_of),
                **remarks(own, outcomes),
                "training s": float(np.mean([c.steady for c in clocks])),
                "compiling s": float(np.mean([c.other for c in clocks])),
                "images/s": rate,
                "% of peak": 100 * rate * row.passes * flops / peak,
                **beside(row.method.name, published, COLUMNS),
            }
        )
    return table


def front(rows: Sequence[Row], outcomes: Sequence[Outcome], found: Found) -> figures.Figure:
    """Clean against robust accuracy under the last attack that judged all runs, else FGSM."""
    columns = dict.fromkeys(column for columns in found.values() for column in columns)
    shared = [c for c in columns if all(c in run for run in found.values())]
    column = shared[-1] if shared else "FGSM"
    families: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {}
    for row in rows:
        own = [o for o in outcomes if o.method == row.method.name]
        if own:
            runs = [{**o.accuracies, **found[o.method, o.seed]} for o in own]
            point = tuple(np.asarray([run[c] for run in runs]) for c in ("Clean", column))
            families.setdefault(row.family, {})[row.label] = point
    return figures.trade_off(families, x="clean accuracy (%)", y=f"{column} accuracy (%)")
