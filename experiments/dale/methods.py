"""The rows of the study: training methods with their settings."""

from __future__ import annotations

from jaxrobust import attacks, checks
from jaxrobust.data import Dataset
from jaxrobust.lagrangian import dual_ascent
from jaxrobust.types import Attack

from ..common.defense_menu import CONSTRAINED, make_methods, sampling, stepped
from ..common.recipes import Recipe
from ..common.rows import Method
from .config import Config

METHODS = ("erm", "fgsm", "pgd", "alp", "clp", "trades", "mart", *CONSTRAINED)


def methods(config: Config, settings: Recipe, dataset: Dataset) -> list[Method]:
    """The rows of the table."""
    for name in config.methods:
        checks.choice("method", name, METHODS)
    rows = make_methods(config.methods, settings, dataset)
    for nu in config.nu:
        # A dual step of 0 keeps the multiplier; the constraint level is then only logged against.
        held = dual_ascent(0.0, initial=nu)
        rows.append(Method(f"dale nu={nu:g}", CONSTRAINED["dale"](settings, 0.0), held))
    return rows


def sampling_attacks(settings: Recipe) -> dict[str, Attack]:
    """The perturbations that Figure 1 compares, by the row whose model they attack."""
    return {
        "fgsm": attacks.fgsm(settings.threat),
        "pgd": attacks.pgd(settings.threat, **stepped(settings), keep="last"),
        "dale": attacks.langevin(settings.threat, **sampling(settings)),
    }
