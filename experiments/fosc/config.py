"""Options, settings and recipes of the study."""

from __future__ import annotations

import dataclasses
from typing import Literal

import tyro

from jaxrobust import checks

from ..common.attack_menu import number
from ..common.options import Options, distinct
from ..common.recipes import Recipe
from .recipes import EARLY, METHODS, RECIPES

PARTS = ("table", "black-box", "strength", "steps", "radii")
USUAL = PARTS[:3]


@dataclasses.dataclass(frozen=True)
class Config:
    """Trains dynamic adversarial training and its baselines, and follows how attacks converge."""

    options: tyro.conf.OmitArgPrefixes[Options] = dataclasses.field(default_factory=Options)
    part: tuple[Literal["table", "black-box", "strength", "steps", "radii"], ...] = USUAL
    """What to print and draw. table, black-box and strength share the trained rows; steps (Figure
    2) and radii (Figure 4) train more."""
    methods: tuple[str, ...] = METHODS
    """A row each, of erm, pgd, curriculum, curriculum_mixed, dynamic; and pgd_small (steps of eps /
    8) and fgsm_pgd (FGSM at first), of Figure 3."""
    sizes: tuple[float, ...] = (1.0, 0.5, 0.25, 0.125)
    """Step sizes of the part steps, in radii."""
    counts: tuple[int, ...] = (10, 20, 40)
    """Numbers of steps of the part steps."""
    radii: tuple[str, ...] | None = None
    """Of the part radii, such as 2/255 (default: quarters of the preset's)."""
    weak: float = 20 / 120
    """Share of training for which fgsm_pgd trains with FGSM."""
    c_max: float = 0.5
    """FOSC that dynamic training asks for at first."""
    until: float | None = None
    """Share of training after which dynamic training asks for 0 (default: the preset's)."""
    surrogate: Literal["pgd", "erm"] = "pgd"
    """How the black-box points' network is trained (the paper: pgd)."""
    surrogate_model: str | None = None
    """Its network (default: the defended one; at cifar10 paper resnet50)."""
    groups: int = 20
    """Groups of test images by FOSC, in Figure 1a."""
    images: int = 20
    """Traced in Figure 1b."""


def checked(config: Config) -> Recipe:
    """The recipe, once every option has been checked.

    Raises:
      ValueError: a part, method or number that cannot be run.
    """
    for name, values, known in (
        ("part", config.part, PARTS),
        ("methods", config.methods, (*METHODS, *EARLY)),
    ):
        distinct(name, values)
        if not values:
            raise ValueError(f"nothing to run: --{name} is empty")
        for value in values:
            checks.choice("method" if name == "methods" else name, value, known)
    for name in ("sizes", "counts", "radii"):
        distinct(name, getattr(config, name) or ())
        if getattr(config, name) == ():
            raise ValueError(f"nothing to run: --{name} is empty")
    for size in config.sizes:
        checks.positive("sizes", size)
    for count in config.counts:
        checks.at_least("counts", count, 1)
    for text in config.radii or ():
        checks.positive("radii", number(text, "radii"))
    checks.fraction("weak", config.weak)
    checks.choice("surrogate", config.surrogate, ("pgd", "erm"))
    checks.positive("c_max", config.c_max)
    checks.at_least("groups", config.groups, 2)
    checks.at_least("images", config.images, 1)
    if "strength" in config.part and "pgd" not in config.methods:
        raise ValueError("the part strength attacks the row pgd; add pgd to --methods")
    return config.options.recipe(RECIPES)
