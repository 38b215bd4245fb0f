"""FOSC's settings and published figures (Wang et al. 2019, section 5.1)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from jaxrobust import attacks
from jaxrobust.types import Attack

from ..common.recipes import CIFAR10, DIGITS, MNIST, RAW, Recipe, Recipes

# The batch size and the images held out are not in the paper.
_MNIST = Recipe(
    model="fosc_mnist",
    epsilon=0.3,
    step_size=0.3 / 4,
    steps=10,
    epochs=50,
    batch_size=128,
    optimizer="sgd",
    learning_rate=0.01,
    schedule="piecewise",
    schedule_options={"at": (20 / 50, 40 / 50), "factor": 0.1},
    weight_decay=1e-4,
    validation=1000,
    eval_step_size=0.3 / 4,
)

RECIPES: Recipes = {
    ("digits", "quick"): dataclasses.replace(DIGITS, steps=10, eval_step_size=0.05, eval_steps=10),
    ("mnist", "quick"): dataclasses.replace(
        MNIST, model="fosc_mnist", steps=10, eval_step_size=0.3 / 4, eval_steps=10
    ),
    ("cifar10", "quick"): dataclasses.replace(CIFAR10, eval_step_size=2 / 255, eval_steps=10),
    ("mnist", "paper"): _MNIST,
    ("cifar10", "paper"): dataclasses.replace(
        _MNIST,
        model="fosc_cifar",
        epsilon=8 / 255,
        step_size=2 / 255,
        epochs=120,
        schedule_options={"at": (60 / 120, 100 / 120), "factor": 0.1},
        eval_step_size=2 / 255,
        model_options=RAW,
    ),
}

LESSONS: Mapping[tuple[str, str], int] = {("mnist", "paper"): 40, ("cifar10", "paper"): 7}
"""Steps up to which curriculum training grows (Cai et al. 2018); else those of all attacks."""

UNTIL: Mapping[tuple[str, str], float] = {("cifar10", "paper"): 100 / 120}
"""Share T' / T of training after which dynamic training asks for converged points; else 40 / 50."""

SURROGATES: Mapping[tuple[str, str], str] = {("cifar10", "paper"): "resnet50"}
"""Networks of the black-box attacks; else a copy of the defended one."""

METHODS = ("erm", "pgd", "curriculum", "curriculum_mixed", "dynamic")
"""The paper's Unsecured, Standard, Curriculum (in its two forms) and Dynamic."""

EARLY = ("pgd_small", "fgsm_pgd")
"""Rows of Figure 3 beside `pgd`: steps of eps / 8, and FGSM in the first part of training."""

STAGES = (10 / 120, 60 / 120, 1.0)
"""Shares of training that Figures 3 and 5 show."""

COLUMNS = "clean / FGSM / PGD10 / PGD20 / C&W"

TABLE_1: Mapping[str, Mapping[str, tuple[float, ...]]] = {
    "mnist": {
        "erm": (99.20, 14.04, 0.0, 0.0, 0.0),
        "pgd": (97.61, 94.71, 91.21, 90.62, 91.03),
        "curriculum": (98.62, 95.51, 91.24, 90.65, 91.12),
        "dynamic": (97.96, 95.34, 91.63, 91.27, 91.47),
    },
    "cifar10": {
        "erm": (89.39, 2.2, 0.0, 0.0, 0.0),
        "pgd": (66.31, 48.65, 44.39, 40.02, 36.33),
        "curriculum": (72.40, 50.47, 45.54, 40.12, 35.77),
        "dynamic": (72.17, 52.81, 48.06, 42.40, 37.26),
    },
}

TABLE_2: Mapping[str, Mapping[str, tuple[float, ...]]] = {
    "mnist": {
        "pgd": (96.12, 95.73, 95.73, 97.20),
        "curriculum": (96.59, 95.87, 96.09, 97.52),
        "dynamic": (97.60, 97.01, 96.97, 98.36),
    },
    "cifar10": {
        "pgd": (65.65, 65.80, 65.60, 66.12),
        "curriculum": (71.25, 71.44, 71.13, 71.94),
        "dynamic": (71.95, 72.15, 72.02, 72.85),
    },
}
"""FGSM, PGD10, PGD20, C&W."""


def columns(settings: Recipe) -> dict[str, Attack]:
    """FGSM, PGD10, PGD20 and C&W, PGD on the margin with 30 steps (section 5.1)."""
    sized = {"step_size": settings.eval_step_size}
    threat = settings.threat
    return {
        "FGSM": attacks.fgsm(threat),
        "PGD10": attacks.pgd(threat, steps=10, **sized),
        "PGD20": attacks.pgd(threat, steps=20, **sized),
        "C&W": attacks.carlini_wagner_pgd(threat, steps=30, **sized),
    }
