"""Options, settings and recipes of the study."""

from __future__ import annotations

import dataclasses
from typing import Literal

import tyro

from ..common.options import Options


@dataclasses.dataclass(frozen=True)
class Config:
    """Trains TRADES and its baselines and prints natural and robust test accuracies."""

    options: tyro.conf.OmitArgPrefixes[Options] = dataclasses.field(default_factory=Options)
    part: tuple[Literal["table", "sensitivity", "black-box", "theorem", "plane"], ...] | None = None
    """What to run (default: all that there are recipes for; theorem is of digits and mnist), or
    plane: Figure 1, of points of its own."""
    attacks: tuple[str, ...] | None = None
    """Columns of the white-box table: fgsm pgd mi-fgsm deepfool deepfool-l2 cw (the default), lbfgs
    (by default with the preset paper alone)."""
    more_steps: int | None = None
    """A further column of FGSM^k with so many steps (the paper also took 1,000)."""
    weights: tuple[float, ...] | None = None
    """1 / lambda of the sensitivity's rows (default: the preset's)."""
    lambdas: tuple[float, ...] | None = None
    """lambda of the theorem's rows (default: the preset's)."""
