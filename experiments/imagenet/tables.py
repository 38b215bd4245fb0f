"""The study's tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxrobust.data import Stream

from ..common.rows import Outcome
from .config import Config
from .recipes import Setting

COLUMNS = "clean / PGD+1 / PGD+10"


def phase_rows(setting: Setting, outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Time by row and phase, as in Table 4.8: means over seeds; rates leave compiling out."""
    rows = []
    for method in dict.fromkeys(outcome.method for outcome in outcomes):
        first = 0
        for number, phase in enumerate(setting.phases):
            last = first + phase.epochs
            epochs = [r for o in outcomes if o.method == method for r in o.history[first:last]]
            seconds = [row["seconds"] for row in epochs]
            row = {
                "method": method,
                "phase": number + 1,
                "pixels": phase.size,
                "batch size": phase.batch_size,
                "epochs": phase.epochs,
                "seconds": float(np.mean(seconds)) * phase.epochs,
                "images/s": float(np.mean([r["images_per_second"] for r in epochs])),
            }
            if setting.published_minutes:
                row["min/epoch"] = float(np.mean(seconds)) / 60
                row["published min/epoch"] = f"{setting.published_minutes[number]:g}"
            rows.append(row)
            first = last
    return rows


def described(config: Config, setting: Setting, stream: Stream) -> str:
    """What the figures were measured on."""
    phases = ", ".join(f"{p.epochs} at {p.size} px" for p in setting.phases)
    options = "".join(f", {name} {value}" for name, value in setting.network.items())
    return (
        f"{stream.label}: resnet50{options}, {setting.dtype}, epochs {phases}, {stream.images} "
        f"training and {len(stream.test)} test images at {setting.eval_size} px, PGD"
        f"{setting.steps} step {setting.step_size:g}/255 with 1 and {setting.restarts} restarts, "
        f"seeds {' '.join(map(str, config.seeds))}; mean ± standard deviation, %"
    )
