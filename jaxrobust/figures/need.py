"""Nothing to draw is an error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np


def need(name: str, value: Sequence | Mapping | np.ndarray) -> None:
    """Raises ValueError where `value` is empty."""
    if not len(value):
        raise ValueError(f"nothing to draw: {name} is empty")
