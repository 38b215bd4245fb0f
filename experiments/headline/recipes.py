"""How the headline trains and judges each data set, and the figures published for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from ..common.recipes import QUICK, Recipe, Recipes, kin


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is trained alike and judged alike, beside the options."""

    recipe: Recipe
    rho: tuple[float, ...]
    """Levels of DALE's clean loss."""
    beta: tuple[float, ...]
    """TRADES' weights, 1 / lambda."""
    images: int
    """Test images, the first ones, that PGD-50-10 attacks."""
    minutes: float | None = None
    """What the whole command may take."""


# Single-step training as the papers on it do it: the shortcut and the initialization of the
# released networks, batch statistics of the attacked batch, a triangle that peaks in mid-run.
_CIFAR10 = dataclasses.replace(
    QUICK["cifar10", "quick"],
    model_options={"shortcut": "raw", "initialization": "torch"},
    attack_mode="train",
    epochs=15,
    steps=7,
    schedule_options={"top": 0.5},
    eval_step_size=2 / 255,
    eval_steps=50,
    autoattack=250,
)

SETTINGS: Mapping[str, Setting] = {
    "digits": Setting(
        dataclasses.replace(QUICK["digits", "quick"], eval_steps=50, autoattack=100),
        rho=(0.1, 0.2, 0.4),
        beta=(1.0, 3.0, 6.0),
        images=200,
    ),
    "mnist": Setting(
        dataclasses.replace(QUICK["mnist", "quick"], eval_steps=50, autoattack=200),
        rho=(0.1, 0.2),
        beta=(1.0, 6.0),
        images=1000,
    ),
    "cifar10": Setting(_CIFAR10, rho=(0.8, 1.0, 1.2), beta=(6.0,), images=1000, minutes=12.0),
}
"""Settings by the first of similar data sets."""

RECIPES: Recipes = {(name, "quick"): setting.recipe for name, setting in SETTINGS.items()}

RESTARTS = 10
"""Restarts of the PGD that judges."""


def setting_of(dataset: str) -> Setting:
    """The setting whose recipe `experiments.common.recipes.recipe` finds: similar sets share it."""
    return SETTINGS[kin(dataset)]


COLUMNS = "clean / FGSM / PGD"

PUBLISHED: Mapping[str, Mapping[str, Sequence[float | None]]] = {
    "mnist": {
        "pgd": (98.1, 95.5, 93.1),
        "trades beta=6": (98.9, 96.5, 94.0),
        "fgsm_rs": (99.20, None, 88.77),
    },
    "cifar10": {
        "fgsm_rs": (83.81, None, 46.06),
        "pgd": (83.8, 53.7, 48.1),
        "trades beta=6": (80.7, 55.2, 49.6),
        "dale rho=0.8": (85.0, 55.4, 50.1),
        "dale rho=1": (82.1, 55.2, 51.7),
    },
}
"""DALE's Table 1 (long runs of larger networks, PGD10 on MNIST and PGD20 on CIFAR-10); FGSM from a
random start in Wong's thesis, Tables 4.1 and 4.4 (PGD-50-10)."""
