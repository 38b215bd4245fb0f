"""Tables of trained rows: figures over seeds, beside the published ones."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from jaxrobust.evaluation.report import show
from jaxrobust.files import write_csv, write_text_atomic

from .rows import BEST_BY, Outcome


def summarize(
    outcomes: Sequence[Outcome],
    published: Mapping[str, Sequence[float | None]] | None = None,
    *,
    columns: str = "",
) -> list[dict[str, Any]]:
    """A row per method: mean and sample standard deviation over seeds of every accuracy, in %.

    Beside them are the `remarks`.

    Args:
      published: the paper's figures by method; None where it has none.
      columns: what these figures are, in their order.
    """
    rows = []
    for method in dict.fromkeys(outcome.method for outcome in outcomes):
        own = [outcome for outcome in outcomes if outcome.method == method]
        row: dict[str, Any] = {"method": method, **averaged([o.accuracies for o in own])}
        rows.append(row | remarks(own, outcomes) | beside(method, published, columns))
    return rows


def remarks(own: Sequence[Outcome], outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """What the reader of a row must know beside its accuracies.

    How its constraint stands (see `constraint`), where any row of the table has one, and in how
    many runs robustness collapsed, where it did in any.

    Args:
      own: the row's runs. outcomes: the whole table's.
    """
    made = constraint(own) if any(outcome.rho is not None for outcome in outcomes) else {}
    if any(collapse(outcome.history) is not None for outcome in outcomes):
        made["collapsed"] = collapses(own)
    return made


SETTLED = 0.15
"""Slack, as a share of rho, that counts as none."""


def constraint(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """How the constraint of a row's runs stands at their end; None where they have none.

    nu: the last multiplier. slack: rho minus the constrained loss, over the batches of the last
    epoch. Both are means over runs. holds: in how many runs that loss is at most rho, up to 15 %.
    settled: in how many either the slack is at most 15 % of rho, or it is positive and nu is 0;
    elsewhere the multiplier is still on its way.
    """
    if outcomes[0].rho is None or "train_violation" not in outcomes[0].history[-1]:
        return dict.fromkeys(("nu", "slack", "holds", "settled"))
    last = [outcome.history[-1] for outcome in outcomes]
    nu = np.asarray([row["multiplier"] for row in last])
    slack = -np.asarray([row["train_violation"] for row in last])
    room = SETTLED * np.asarray([outcome.rho for outcome in outcomes])
    settled = (np.abs(slack) <= room) | ((slack > 0) & (nu == 0))
    return {
        "nu": float(nu.mean()),
        "slack": float(slack.mean()),
        "holds": f"{(slack >= -room).sum()}/{len(last)}",
        "settled": f"{settled.sum()}/{len(last)}",
    }


DROP = 20.0
"""Robust accuracy in percentage points, lost in an epoch, that makes a collapse (Wong's thesis,
section 4.1.2)."""


def collapse(history: Sequence[Mapping[str, Any]], *, drop: float = DROP) -> int | None:
    """The epoch, counted from 0, in which robustness on the images held out collapsed, or None.

    It fell by more than `drop` within that epoch, or after it, and was not regained by the end.
    """
    robust = [row[BEST_BY] for row in history if BEST_BY in row]
    for epoch in range(1, len(robust)):
        if robust[epoch - 1] - robust[epoch] > drop:
            return epoch
    if robust and max(robust) - robust[-1] > drop:
        return int(np.argmax(robust)) + 1
    return None


def collapses(outcomes: Sequence[Outcome], *, drop: float = DROP) -> str:
    """How many of the runs lost their robustness."""
    fell = [collapse(outcome.history, drop=drop) is not None for outcome in outcomes]
    return f"{sum(fell)}/{len(fell)}"


def averaged(runs: Sequence[Mapping[str, float | None]]) -> dict[str, Any]:
    """How many runs there are, and mean and sample standard deviation of each of their figures.

    A figure that the first run lacks (None) stays so.
    """
    row: dict[str, Any] = {"seeds": len(runs)}
    for column, first in runs[0].items():
        values = None if first is None else np.asarray([r[column] for r in runs])
        row[column] = None if values is None else float(values.mean())
        spread = values is not None and len(runs) > 1
        row[f"{column} std"] = float(values.std(ddof=1)) if spread else None
    return row


def beside(
    row: str, published: Mapping[str, Sequence[float | None]] | None, columns: str
) -> dict[str, str]:
    """The column of the paper's figures for a row; none where nothing is published.

    Args:
      published: by row; None for a figure that the paper lacks. columns: what they are, in order.
    """
    if published is None:
        return {}
    told = " / ".join("-" if f is None else f"{f:g}" for f in published.get(row, ()))
    return {f"published {columns}".strip(): told}


def _number(value: float) -> str:
    """Two decimals, and below .1 two digits at least; what rounding left of 0 is 0."""
    return f"{value:.2g}" if 1e-9 < abs(value) < 0.1 else f"{value:.2f}"


def cells(row: Mapping[str, Any]) -> dict[str, str]:
    """A row's figures as text, `mean±std`."""
    texts = {}
    for name, value in row.items():
        if name.endswith(" std") or name == "seeds":
            continue
        std = row.get(f"{name} std")
        text = _number(value) if isinstance(value, float) else str(value)
        text = "" if value is None else text
        texts[name] = text if std is None else f"{text}±{_number(std)}"
    return texts


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns and rows of text as a Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def publish(
    stem: Path,
    title: str,
    rows: Sequence[Mapping[str, Any]],
    *,
    about: Mapping[str, Any] | None = None,
) -> None:
    """Prints the table and writes it as `stem`.json, .csv and .md.

    `about` joins the .json: what `experiments.summary` tells tables apart by.
    """
    texts = [cells(row) for row in rows]
    columns = list(texts[0])
    shown = Table(title=title, box=box.SIMPLE_HEAD)
    for column in columns:
        left = column == "method"
        shown.add_column(column, justify="left" if left else "right", no_wrap=left)
    for row in texts:
        shown.add_row(*row.values())
    markdown = markdown_table(columns, [list(row.values()) for row in texts])
    content = {"title": title, **(about or {}), "rows": rows}
    write_text_atomic(stem.with_suffix(".json"), json.dumps(content) + "\n")
    write_csv(stem.with_suffix(".csv"), rows)
    write_text_atomic(stem.with_suffix(".md"), f"{title}\n\n{markdown}\n")
    show(shown)


def told(written: Sequence[Path], began: float) -> None:
    """Prints which files were written, and the time since `began` on `time.perf_counter`."""
    console = Console()
    for path in written:
        console.print(f"wrote {path}", soft_wrap=True)
    console.print(f"{time.perf_counter() - began:.0f} s on {jax.device_count()} device(s)")
