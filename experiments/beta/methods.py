"""The rows of the study: training methods with their settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from jaxrobust import attacks, checks, defenses
from jaxrobust.data import Dataset
from jaxrobust.defenses import Defense
from jaxrobust.types import Attack

from ..common.defense_menu import PLAIN, mode
from ..common.recipes import Recipe
from ..common.rows import Method
from .config import Config


def climbing(settings: Recipe, steps: int) -> dict[str, Any]:
    """BETA's settings in training: the paper's 2/255 at its radius of 8/255."""
    return {"step_size": settings.epsilon / 4, "steps": steps}


def beta(steps: int) -> Callable[[Recipe, Dataset], Defense]:
    """Makes BETA-AT with so many steps."""
    return lambda r, d: defenses.beta(attacks.beta(r.threat, **climbing(r, steps)), **mode(r))


MADE: Mapping[str, Callable[[Recipe, Dataset], Defense]] = {
    **{name: PLAIN[name] for name in ("fgsm", "pgd", "trades", "mart")},
    **{f"beta{steps}": beta(steps) for steps in (5, 10, 20)},
}

METHODS = (*MADE, "sbeta")


def columns(settings: Recipe) -> dict[str, Attack]:
    """The attacks of Table 1, steps a quarter of the radius long."""
    threat, size = settings.threat, settings.epsilon / 4
    return {
        "FGSM": attacks.fgsm(threat),
        "PGD10": attacks.pgd(threat, step_size=size, steps=10),
        "PGD40": attacks.pgd(threat, step_size=size, steps=40),
        "BETA10": attacks.beta(threat, step_size=size, steps=10),
        # The paper does not say with how many steps; 100 is the attack's default.
        "APGD": attacks.apgd(threat),
    }


def methods(config: Config, settings: Recipe, dataset: Dataset) -> list[Method]:
    """The rows of the table."""
    rows = []
    for name in config.methods:
        checks.choice("method", name, METHODS)
        if name == "sbeta":
            climb = attacks.optimizer_steps(settings.threat, **climbing(settings, 10))
            smooth = defenses.sbeta(climb, mu=config.mu, **mode(settings))
            rows.append(Method(f"sbeta mu={config.mu:g}", smooth))
        else:
            rows.append(Method(name, MADE[name](settings, dataset)))
    return rows
