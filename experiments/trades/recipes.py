"""TRADES' settings and published figures (Zhang et al. 2019, section 5 and appendix D)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from ..common.recipes import DIGITS, MNIST, QUICK, Recipe, Recipes

# Section 5.3. The milestones, the momentum and the weight decay are the released code's (which on
# CIFAR-10 stops after 76 of the paper's 100 epochs).
_MNIST = Recipe(
    model="trades_small",
    epsilon=0.3,
    step_size=0.01,
    steps=40,
    epochs=100,
    batch_size=128,
    optimizer="sgd",
    learning_rate=0.01,
    schedule="piecewise",
    schedule_options={"at": (0.55, 0.75, 0.9), "factor": 0.1},
    eval_step_size=0.01,
    eval_steps=40,
    autoattack=1000,
    # Of TRADES (section 5); its rows' baseline starts there too.
    start="gaussian",
)
_CIFAR10 = dataclasses.replace(
    _MNIST,
    model="wide_resnet",
    epsilon=0.031,
    step_size=0.007,
    steps=10,
    learning_rate=0.1,
    schedule_options={"at": (0.75, 0.9), "factor": 0.1},
    weight_decay=2e-4,
    augment=True,
    eval_step_size=0.003,
    eval_steps=20,
)

TABLE: Recipes = {
    **{name: dataclasses.replace(recipe, autoattack=64) for name, recipe in QUICK.items()},
    ("mnist", "paper"): _MNIST,
    ("cifar10", "paper"): _CIFAR10,
}
"""Settings of the white-box and black-box tables."""

# Section 5.2; a network of two convolutions and two dense layers, without a schedule in the text.
_SMALL = dataclasses.replace(
    _MNIST,
    model="wong_small",
    epsilon=0.1,
    steps=20,
    epochs=50,
    schedule="constant",
    schedule_options={},
    eval_step_size=0.005,
)

SENSITIVITY: Recipes = {
    **QUICK,
    ("mnist", "quick"): dataclasses.replace(
        MNIST, epsilon=0.1, step_size=0.025, eval_step_size=0.005
    ),
    ("mnist", "paper"): _SMALL,
    ("cifar10", "paper"): dataclasses.replace(_CIFAR10, model="resnet18"),
}
"""Settings of the sweep over 1 / lambda."""

WEIGHTS: Mapping[str, tuple[float, ...]] = {
    "quick": (0.2, 1.0, 5.0),
    "paper": (0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 2.0, 3.0, 4.0, 5.0),
}
"""1 / lambda of Table 4, by preset."""

LAMBDAS: Mapping[str, tuple[float, ...]] = {"quick": (2.0, 5.0), "paper": (2.0, 3.0, 4.0, 5.0)}
"""Values of 1 / lambda of Table 3, by preset."""


def _binary(recipe: Recipe, epochs: int) -> Recipe:
    # Section 5.1; the step size is the released code's.
    return dataclasses.replace(
        recipe,
        epsilon=0.1,
        step_size=0.01,
        steps=20,
        epochs=epochs,
        ramp=0.0,
        validation=0,
        eval_step_size=0.01,
        eval_steps=20,
    )


THEOREM: Recipes = {
    ("digits", "quick"): _binary(DIGITS, 15),
    ("mnist", "quick"): _binary(MNIST, 3),
    ("mnist", "paper"): _binary(_SMALL, 30),
}
"""Settings of the binary task."""

COLUMNS = "clean / FGSM / FGSM^k / MI-FGSM / DeepFool / DeepFool l2 / L-BFGS / C&W"

PUBLISHED: Mapping[str, Mapping[str, tuple[float | None, ...]]] = {
    "mnist": {
        "erm": (99.50,),
        "pgd": (99.36, None, 96.01),
        "trades 1/lambda=6": (99.48, None, 96.07),
    },
    "cifar10": {
        "erm": (95.29,),
        "pgd": (87.30, None, 47.04),
        "trades 1/lambda=1": (88.64, 56.38, 49.14, 51.26, 59.10, 84.49, 84.41, 84.03),
        "trades 1/lambda=6": (84.92, 61.06, 56.61, 57.95, 61.38, 81.55, 81.58, 81.24),
    },
}
"""Tables 5 and 8, and section 5.3.2 for erm."""

_ROBUST_NATURAL: Mapping[str, tuple[tuple[float, float], ...]] = {
    "mnist": (
        (91.09, 99.41), (92.18, 99.38), (93.21, 99.35), (93.87, 99.33), (94.32, 99.31),
        (94.75, 99.28), (95.45, 99.29), (95.57, 99.24), (95.65, 99.16), (95.65, 99.16),
    ),
    "cifar10": (
        (26.53, 91.31), (37.71, 89.56), (41.50, 87.91), (43.37, 87.50), (44.17, 87.11),
        (44.68, 87.01), (48.22, 85.22), (49.67, 83.82), (50.25, 82.90), (50.64, 81.72),
    ),
}  # fmt: skip

PUBLISHED_SENSITIVITY: Mapping[str, Mapping[str, tuple[float, float]]] = {
    dataset: {
        f"trades 1/lambda={weight:g}": (natural, robust)
        for weight, (robust, natural) in zip(WEIGHTS["paper"], figures, strict=True)
    }
    for dataset, figures in _ROBUST_NATURAL.items()
}
"""Table 4: natural and robust accuracy."""

PUBLISHED_BLACK_BOX: Mapping[str, Mapping[str, tuple[float, float, float]]] = {
    "mnist": {
        "pgd (erm)": (97.43, 97.68, 0.0078484),
        "trades 1/lambda=6 (erm)": (97.63, 97.75, 0.0075324),
        "pgd (trades 1/lambda=6)": (97.38, 98.11, 0.0084962),
        "trades 1/lambda=6 (pgd)": (97.66, 98.44, 0.0073532),
    },
    "cifar10": {
        "pgd (erm)": (84.39, 84.02, 0.0519784),
        "trades 1/lambda=6 (erm)": (87.60, 86.84, 0.0380258),
        "pgd (trades 1/lambda=6)": (66.00, 67.66, 0.1252672),
        "trades 1/lambda=6 (pgd)": (70.14, 71.52, 0.0885364),
    },
}
"""Tables 6, 7, 9 and 10: FGSM^k, FGSM, and the loss in brackets."""

PUBLISHED_THEOREM: Mapping[str, tuple[float, float, float]] = {
    "lambda=2": (99.43, 0.0006728, 0.006708),
    "lambda=3": (99.41, 0.0004067, 0.005914),
    "lambda=4": (99.37, 0.0003746, 0.006757),
    "lambda=5": (99.34, 0.0003430, 0.005860),
}
"""Table 3, MNIST: robust accuracy in %, R_phi, and Delta_RHS - Delta_LHS."""
