"""Options, settings and recipes of the study."""

from __future__ import annotations

import dataclasses

import jax
import tyro

from jaxrobust import checks

from ..common.options import Options, distinct
from .methods import DEFAULT, ROWS
from .recipes import RECIPES, Setting, setting_of


@dataclasses.dataclass(frozen=True)
class Config:
    """Trains the rows within one budget and prints accuracies, costs and the trade-off."""

    options: tyro.conf.OmitArgPrefixes[Options] = dataclasses.field(
        default_factory=lambda: Options(seeds=(0,))
    )
    rows: tuple[str, ...] = DEFAULT
    """Any of n_fgsm, fgsm_rs, pgd, trades (one for each --beta), dale and kl_dale, which is dale
    with TRADES' loss (one for each --rho)."""
    rho: tuple[float, ...] | None = None
    """Levels of DALE's clean loss (default: the data set's)."""
    beta: tuple[float, ...] | None = None
    """TRADES' weights, 1 / lambda (default: the data set's)."""
    steps: int | None = None
    """Steps of training attacks (default: the data set's)."""
    images: int | None = None
    """Test images, the first ones, that PGD-50-10 attacks (default: the data set's)."""
    minutes: float | None = None
    """Begin nothing that would end later; print what is done (default: 12 on CIFAR-10 and its kin,
    else no limit; inf: no limit)."""


def setting(config: Config) -> Setting:
    """The data set's setting with the options that are given.

    Raises:
      ValueError: an unknown data set or row, or an impossible number.
    """
    options = config.options
    recipe = options.recipe(RECIPES, steps=config.steps)
    names = ("rho", "beta", "images", "minutes")
    given = {n: getattr(config, n) for n in names if getattr(config, n) is not None}
    chosen = dataclasses.replace(setting_of(options.dataset), recipe=recipe, **given)
    for name, values in (("rows", config.rows), ("rho", chosen.rho), ("beta", chosen.beta)):
        distinct(name, values)
        if not values:
            raise ValueError(f"nothing to run: --{name} is empty")
    for name in config.rows:
        checks.choice("row", name, ROWS)
    checks.at_least("images", chosen.images, 1)
    if chosen.minutes not in (None, float("inf")) and jax.process_count() > 1:
        raise ValueError("--minutes needs a single process: several would stop at different times")
    return chosen
