"""Options, settings and recipes of the study."""

from __future__ import annotations

import dataclasses

import tyro

from jaxrobust import checks
from jaxrobust.data import Dataset

from ..common.options import Options, distinct
from .methods import ROWS
from .recipes import RECIPES, Setting, setting_of


@dataclasses.dataclass(frozen=True)
class Config:
    """Trains in one norm and in the union of three, and attacks every row in all of them."""

    options: tyro.conf.OmitArgPrefixes[Options] = dataclasses.field(default_factory=Options)
    methods: tuple[str, ...] = tuple(ROWS)
    """A row each: erm, linf, l2, l1, worst (Worst-PGD), augmented (PGD-Aug), msd (from the
    image), msd_random (from a random point of the union)."""
    attacks: tuple[str, ...] | None = None
    """Any of pgd, fgsm, mim, deepfool, ddn, cw, ead, apgd, noise, salt-and-pepper, pointwise and
    boundary, each in the balls of the thesis' tables (default: the preset's)."""
    restarts: int | None = None
    """Restarts of attacks that draw random numbers."""
    queries: int | None = None
    """Steps of ddn, cw, ead, apgd and boundary."""
    images: int | None = None
    """Attack the first so many test images (default: the preset's, or --test-limit)."""
    curves: bool = True
    """Draw the robustness curves."""


def setting(config: Config) -> Setting:
    """The preset's setting with the options that are given.

    Raises:
      ValueError: an unknown data set or preset, an impossible number, or AutoAttack asked for.
    """
    options = config.options
    recipe = options.recipe(RECIPES)
    if recipe.autoattack:
        raise ValueError(
            f"autoattack={recipe.autoattack} judges one ball alone and has no column here; leave "
            "it away: --attacks names the attacks of all three"
        )
    names = ("attacks", "restarts", "queries", "images")
    given = {n: getattr(config, n) for n in names if getattr(config, n) is not None}
    preset = setting_of(options.dataset, options.preset)
    chosen = dataclasses.replace(preset, recipe=recipe, **given)
    for name in ("restarts", "queries", "images"):
        checks.at_least(name, getattr(chosen, name), 1)
    distinct("methods", config.methods)
    distinct("attacks", chosen.attacks)
    if not config.methods:
        raise ValueError("nothing to run: give at least one of --methods")
    return chosen


def load(config: Config, chosen: Setting) -> Dataset:
    """The data set with the test images that are attacked."""
    given = config.options.test_limit
    limit = chosen.images if given is None else min(given, chosen.images)
    return dataclasses.replace(config.options, test_limit=limit).load(chosen.recipe)
