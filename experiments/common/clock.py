"""How long a training run takes, compiling apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np


class Clock(NamedTuple):
    """Seconds of a training run, validation apart."""

    steady: float
    """What its steps take once compiled."""
    other: float
    """The rest of what was measured: for the first run of its program, compiling it, or loading it
    where an earlier command kept it."""
    rate: float
    """Images a second."""


def clock(history: Sequence[Mapping[str, Any]], batch_size: int) -> Clock:
    """The clock of a run from the rows of its epochs, as `training.fit` writes them.

    The rate is the median over epochs after the first, which may hold the compiling; a run of one
    epoch has no other rate than its own.
    """
    rate = float(np.median([row["images_per_second"] for row in history[1:] or history]))
    steady = history[-1]["step"] * batch_size / rate
    other = max(sum(row["seconds"] for row in history) - steady, 0.0)
    return Clock(steady, other, rate)
