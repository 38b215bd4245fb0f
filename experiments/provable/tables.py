"""The tables of the study. All figures are errors in %, as in the thesis."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxrobust import figures

from . import released
from .config import Config
from .measure import Measured
from .polytopes import Polytope, area
from .published import told
from .recipes import Setting

UNDECIDED = "undecided"


def error_rows(results: Sequence[Measured], setting: Setting) -> list[dict[str, Any]]:
    """A row per network, radius and method: mean and standard deviation of errors over seeds."""
    rows = []
    for name in dict.fromkeys(result.subject.row for result in results):
        runs = [result for result in results if result.subject.row == name]
        row: dict[str, Any] = {"method": name.name, "seeds": len(runs)}
        columns = [_columns(result) for result in runs]
        for column in columns[0]:
            values = np.asarray([c[column] for c in columns])
            row[column] = float(values.mean())
            row[f"{column} std"] = float(values.std(ddof=1)) if len(runs) > 1 else None
        if setting.published:
            key = (name.network, told(name.radius), name.method)
            row["in the thesis"] = setting.published.get(key, "")
        rows.append(row)
    return rows


def _columns(result: Measured) -> Mapping[str, float]:
    """The errors, and between attacked and certified what neither decides."""
    return {**result.errors, UNDECIDED: 100 * float(result.sandwich.undecided.mean())}


def box_rows(polytopes: Mapping[str, Sequence[Polytope]], radii: Sequence[float]) -> list[dict]:
    """Ranges of the logits over a ball, (3.30) and (3.31): reached, by the dual, by intervals."""
    rows = []
    for name, found in polytopes.items():
        for radius, polytope in zip(radii, found, strict=True):
            reached = polytope.outputs.reshape(-1, 2)
            row: dict[str, Any] = {"method": f"{name}, eps {radius:g}"}
            for index in (0, 1):
                row[f"logit {index}"] = _range(reached[:, index])
                row[f"dual {index}"] = _range(polytope.outer[:, index])
                row[f"layerwise {index}"] = _range(polytope.box[:, index])
            row["dual area / hull"] = f"{area(polytope.outer) / area(reached):.3g}"
            rows.append(row)
    return rows


def _range(values: np.ndarray) -> str:
    return f"[{values.min():.2f}, {values.max():.2f}]"


def described(setting: Setting, label: str, seeds: Sequence[int], *, released: bool) -> str:
    """What a table shows, for its title."""
    recipe = setting.recipe
    trained = (
        f"{recipe.epochs} epochs, from radius {setting.first:g} on bounds, seeds "
        f"{' '.join(map(str, seeds))}, mean ± standard deviation"
    )
    about = "; ".join(part for part in (setting.note, "" if released else trained) if part)
    return (
        f"{label}: errors in % on the first {setting.limit} test images; {setting.norm} balls; "
        f"{about}; attacks stay in the pixel box, certificates hold without it; "
        f"pgd takes {setting.attack_steps} steps of eps/10 from a random start"
    )


UPPER = 4.0
"""Largest radius tried in figure 3.7, in radii of training."""


@dataclasses.dataclass
class Results:
    """What there is to publish by the stem of its file: tables with their titles, and figures."""

    title: str
    tables: dict[str, tuple[str, Sequence[Mapping[str, Any]]]]
    figures: dict[str, figures.Figure]

    def add(self, name: str, rows: Sequence[Mapping[str, Any]], title: str | None = None) -> None:
        """A table, unless it is empty; titled as the study unless given."""
        if rows:
            self.tables[name] = (f"{name}; {title or self.title}", rows)


def _compared(config: Config, measured: Sequence[Measured]) -> list[dict[str, Any]]:
    return [
        released.beside(one, config.reference_dir)
        for one in measured
        if one.subject.row.method == "dual" and "Wong-Kolter" in one.certified
    ]
