"""Options of the command."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import tyro

from jaxrobust.data import Dataset
from jaxrobust.duals.relaxed_network import METHODS

from ..common.attack_menu import Budget
from ..common.subject import Subject


@dataclasses.dataclass(frozen=True)
class Config:
    """Robustness of one trained model, from above and from below."""

    subject: tyro.conf.OmitArgPrefixes[Subject] = dataclasses.field(default_factory=Subject)
    threat: Literal["linf", "l2", "l1"] = "linf"
    eps: str = "0.1"
    """Radius in pixels of [0, 1]: a number or a fraction."""
    methods: tuple[Literal["interval", "wong_kolter", "crown"], ...] = METHODS
    """Bounds whose best is taken."""
    attacks: tuple[str, ...] = ("pgd-restarts",)
    """Attacks that bound robustness from above, as in `evaluate`."""
    budget: tyro.conf.OmitArgPrefixes[Budget] = dataclasses.field(default_factory=Budget)
    exact: float = 0.0
    """Seconds for each image that is neither broken nor certified, in which an integer program
    looks for the answer (linf and l1, networks of ReLUs); 0: none."""
    seed: int = 0
    batch_size: int = 100
    chunk: int | None = None
    """Rows of a bound at a time, to save memory."""
    out: Path | None = None
    """Folder of the results (default: a name under runs/verify that says what is verified)."""
    progress: bool = True


def default_folder(config: Config, dataset: Dataset) -> Path:
    """A folder whose name tells the results of different models, data or sets apart."""
    parts = [config.subject.name(dataset), config.threat, config.eps]
    return Path("runs/verify") / "-".join(parts).replace("/", "_")
