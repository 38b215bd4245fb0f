"""Options, settings and recipes of the study."""

from __future__ import annotations

import dataclasses
from typing import Literal

import tyro

from ..common.options import Options
from ..common.recipes import DALE, Recipe


@dataclasses.dataclass(frozen=True)
class Config:
    """Trains DALE and its baselines and prints their clean and robust test accuracies."""

    options: tyro.conf.OmitArgPrefixes[Options] = dataclasses.field(default_factory=Options)
    methods: tuple[str, ...] = ("erm", "fgsm", "pgd", "trades", "dale")
    """Any of erm, fgsm, pgd, alp, clp, trades, mart, dale, kl_dale, reverse_dale."""
    rho: tuple[float, ...] | None = None
    """Levels of the constrained loss, a row each (default: the preset's)."""
    nu: tuple[float, ...] = ()
    """Fixed multipliers for DALE without the dual update, a row each (Table 2)."""
    select: Literal["last", "best"] = "last"
    """Evaluate the last epoch, or the best by PGD accuracy on held-out training images."""
    noise: Literal["laplace", "gaussian"] = "laplace"
    """DALE's noise: laplace inside the sign (paper), or gaussian outside it (released code)."""
    dual_update: Literal["batch", "epoch"] = "batch"
    """When the multiplier moves: after every batch (released code) or every epoch (paper)."""
    attack_mode: Literal["eval", "train"] = "eval"
    """Batch statistics inside training attacks: running, or those of the batch."""
    temperature: float | None = None
    """Temperature of DALE's noise, sqrt(2 * step size * temperature)."""
    relative_noise: bool | None = None
    """DALE's noise in units of each example's mean |gradient entry|."""
    dual: Literal["pi", "ascent"] | None = None
    """What moves the multiplier: a controller whose strength grows over the run, or the paper's
    dual ascent (default: the preset's)."""
    dual_integral: float | None = None
    """Gain of pi: what a violation of 1 throughout the run would add at full strength."""
    dual_proportional: float | None = None
    """Gain of pi: what a fall of the violation by 1 takes back."""
    dual_window: float | None = None
    """Window of pi: share of the run that it averages the violation over, for its proportional
    part."""
    dual_growth: float | None = None
    """Exponent of pi: the power of the share of training by which its strength grows; 0:
    constant."""
    dual_step: float | None = None
    """Step size of ascent, for every move."""
    dual_initial: float | None = None


def settings_of(config: Config) -> Recipe:
    """The preset's recipe with the options that are given."""
    names = ("rho", "noise", "dual_update", "attack_mode", "temperature", "relative_noise")
    names += ("dual", "dual_integral", "dual_proportional", "dual_window", "dual_growth")
    names += ("dual_step", "dual_initial")
    return config.options.recipe(DALE, **{name: getattr(config, name) for name in names})
