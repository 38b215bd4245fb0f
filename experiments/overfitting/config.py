"""Options, settings and recipes of the study."""

from __future__ import annotations

import dataclasses
from typing import Literal

import tyro

from jaxrobust import checks

from ..common.options import Options, distinct
from ..common.probe import require_probe
from .grids import Grid
from .methods import SCHEDULES


@dataclasses.dataclass(frozen=True)
class Config:
    """Trains past the best epoch and prints final and best test errors of every row."""

    options: tyro.conf.OmitArgPrefixes[Options] = dataclasses.field(default_factory=Options)
    part: Literal["regularizers", "schedules", "trades", "widths", "radii", "sizes"] = (
        "regularizers"
    )
    """regularizers: Table 4.13. schedules: Figure 4.8. trades: 4.19, in l2 4.20. widths:
    4.22. sizes: of the data."""
    methods: tuple[str, ...] | None = None
    """Any of pgd, early_stopping, l1, l2, cutout, mixup, semi_supervised, fgsm_rs, trades (default:
    all but the last two, semi_supervised where images are unlabeled); the first part's."""
    grid: tyro.conf.OmitArgPrefixes[Grid] = dataclasses.field(default_factory=Grid)
    schedules: tuple[str, ...] = tuple(SCHEDULES)
    widths: tuple[int, ...] = (1, 2, 4)
    """Widths of wong_wide on gray images, of WRN-28 on color ones; --model has no say there."""
    radii: tuple[str, ...] | None = None
    """Such as 8/255 (default: half, once and twice the preset's)."""
    sizes: tuple[int, ...] | None = None
    """Training images (default: a quarter, half and all of the preset's)."""
    images: int | None = None
    """Train on the first so many images (default: the preset's); the others are unlabeled."""
    unlabeled: int | None = None
    """Use at most so many unlabeled images."""
    probe_images: int | None = 1000
    """At most so many images trained on, and of the test split, are attacked after every epoch."""
    norm: Literal["linf", "l2"] = "linf"
    attack_mode: Literal["eval", "train"] | None = None
    """Batch statistics inside training attacks: running, or those of the batch."""


def check(config: Config) -> None:
    """Raises ValueError for lists that hold a value twice or none, and impossible numbers."""
    lists = {name: getattr(config, name) for name in ("methods", "schedules", "widths", "radii")}
    lists |= {"sizes": config.sizes, **dataclasses.asdict(config.grid)}
    for name, values in lists.items():
        if values is not None:
            distinct(name, values)
            if not values:
                raise ValueError(f"nothing to run: --{name} is empty")
    require_probe(config.probe_images)
    if config.unlabeled is not None:
        checks.at_least("unlabeled", config.unlabeled, 0)
