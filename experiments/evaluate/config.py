"""Options of the command."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import tyro

from jaxrobust.data import Dataset

from ..common.attack_menu import Budget
from ..common.subject import Subject


@dataclasses.dataclass(frozen=True)
class Config:
    """Robust accuracies of one trained model."""

    subject: tyro.conf.OmitArgPrefixes[Subject] = dataclasses.field(default_factory=Subject)
    threat: Literal["linf", "l2", "l1"] = "linf"
    eps: str = "8/255"
    """Radius in pixels of [0, 1]: a number or a fraction."""
    attacks: tuple[str, ...] = ("autoattack",)
    """Names with commas or spaces between, in their order; see above."""
    individually: bool = False
    """Run every attack on all images, not only on those that the attacks before it left."""
    budget: tyro.conf.OmitArgPrefixes[Budget] = dataclasses.field(default_factory=Budget)
    curve: tuple[str, ...] = ()
    """Radii at which to draw a robustness curve."""
    curve_attack: str = "pgd"
    """Attack of the curve; one that seeks the smallest perturbation runs once for all radii."""
    grid: int = 0
    """Draw so many adversarial images, of the attack that broke the most."""
    save_examples: bool = False
    """Write the adversarial examples of every attack too, as report.npz."""
    seed: int = 0
    batch_size: int = 500
    out: Path | None = None
    """Folder of the results (default: a name under runs/evaluate that says what is evaluated)."""
    progress: bool = True


def default_folder(config: Config, dataset: Dataset) -> Path:
    """A folder whose name tells evaluations of different models, data or sets apart."""
    parts = [config.subject.name(dataset), config.threat, config.eps]
    parts += ["individually"] if config.individually else []
    return Path("runs/evaluate") / "-".join(parts).replace("/", "_")
