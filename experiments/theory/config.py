"""Options of the study."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from jaxrobust import checks

from ..common.options import distinct

PARTS = ("dale", "trades", "fosc")


@dataclasses.dataclass(frozen=True)
class Config:
    """Evaluates the papers' theorems on problems whose answers are known; trains no network."""

    part: tuple[Literal["dale", "trades", "fosc"], ...] = PARTS
    """dale: Propositions 3.1, 3.2 and 4.4 with eq. 9. trades: Tables 1 and 2, Theorem 3.2. fosc:
    Theorem 1."""
    draws: int = 20
    """Samples of each size, for Proposition 4.4."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Runs of stochastic gradient descent, for FOSC's Theorem 1."""
    out: Path = Path("runs/theory")


def check(config: Config) -> None:
    """Raises ValueError for a part or a number that cannot be run."""
    for name in ("part", "seeds"):
        distinct(name, getattr(config, name))
        if not getattr(config, name):
            raise ValueError(f"nothing to run: --{name} is empty")
    for part in config.part:
        checks.choice("part", part, PARTS)
    checks.at_least("draws", config.draws, 1)
