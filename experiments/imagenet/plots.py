"""The study's figures."""

from __future__ import annotations

import numpy as np

from jaxrobust import figures
from jaxrobust.data import Stream

from .recipes import Setting

SHOWN = 8
"""Images of each phase in the figure."""


def phases_figure(setting: Setting, stream: Stream, seed: int) -> figures.Figure:
    """Training images as each phase sees them first: random parts, mirrored or not."""
    pictures, titles, first = [], [], 0
    for phase in setting.phases:
        batch = next(stream.batches(seed, first, size=phase.size, batch_size=phase.batch_size))
        shown = min(SHOWN, *(p.batch_size for p in setting.phases))
        pictures.append(batch.x[:shown].astype(np.float32) / 255)
        titles.append([f"class {label}" for label in batch.y[:shown]])
        first += phase.epochs
    names = [f"{phase.size} x {phase.size}" for phase in setting.phases]
    return figures.picture_grid(pictures, titles=titles, rows=names)
