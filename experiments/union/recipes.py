"""How each data set is trained and judged at each preset, and the figures published for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from ..common.recipes import CIFAR10, DIGITS, MNIST, Recipe, Recipes, kin

NORMS = ("linf", "l2", "l1")

Three = tuple[float, float, float]
"""Values of linf, l2 and l1."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a study of a union of norms is made of, beside the options. Triples are by norm."""

    recipe: Recipe
    """Its `radii` are those of evaluation, and of training but for MSD."""
    sizes: Three
    """Step sizes of PGD."""
    steps: tuple[int, int, int]
    """Steps of PGD in training."""
    test_steps: tuple[int, int, int]
    """Steps of PGD in evaluation."""
    msd_radii: Three
    msd_sizes: Three
    msd_steps: int
    attacks: tuple[str, ...]
    """Attacks by default."""
    restarts: int
    """Restarts of attacks that draw random numbers."""
    queries: int
    """Steps of minimum-norm attacks."""
    images: int
    """Test images that are attacked, the first ones."""
    shares: tuple[float, ...]
    """Radii of the robustness curves, in radii of evaluation."""


def _plain(recipe: Recipe, *, steps: int, test_steps: int) -> Setting:
    """PGD and MSD of as many steps in every norm, of 2.5 radius / steps (Madry's rule)."""
    linf, l2, l1 = (2.5 * radius / steps for radius in recipe.radii)
    return Setting(
        recipe=recipe,
        sizes=(linf, l2, l1),
        steps=(steps,) * 3,
        test_steps=(test_steps,) * 3,
        msd_radii=recipe.radii,
        msd_sizes=(linf, l2, l1),
        msd_steps=steps,
        attacks=("pgd", "fgsm", "mim", "deepfool", "ddn", "apgd", "salt-and-pepper"),
        restarts=2,
        queries=50,
        images=200,
        shares=(0.25, 0.5, 0.75, 1.0, 1.5),
    )


# Maini et al. 2020 and Wong's thesis, section 5.4.1. The thesis says neither how large batches are
# nor, for CIFAR-10, how many steps the attacks of evaluation take: here as many as for MNIST.
_SGD = {
    "optimizer": "sgd",
    "learning_rate": 0.1,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "schedule": "piecewise_linear",
    "validation": 0,
    "ramp": 0.0,
}

MNIST_PAPER = dataclasses.replace(
    MNIST,
    **_SGD,
    model="union_mnist",
    epochs=20,
    batch_size=100,
    # 0 to .1 over 7 epochs, to .001 over 8, to .0001 over 5.
    schedule_options={"at": (0.35, 0.75, 1.0), "levels": (1.0, 0.01, 0.001)},
    radii=(0.3, 1.5, 12.0),
)

CIFAR10_PAPER = dataclasses.replace(
    CIFAR10,
    **_SGD,
    model="preact_resnet18",
    # Half precision underflows gradients of attacks.
    dtype="float32",
    epochs=50,
    batch_size=128,
    # 0 to .1 over 20 epochs, to .005 over 20, to 0 over 10.
    schedule_options={"at": (0.4, 0.8, 1.0), "levels": (1.0, 0.05, 0.0)},
    epsilon=0.03,
    radii=(0.03, 0.5, 12.0),
)

_PAPER = {
    "attacks": (
        "pgd", "fgsm", "mim", "deepfool", "ddn", "cw", "ead", "apgd", "noise", "salt-and-pepper",
        "pointwise", "boundary",
    ),
    "restarts": 10,
    "queries": 1000,
    "images": 1000,
    "shares": (0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6),
}  # fmt: skip

SETTINGS: Mapping[tuple[str, str], Setting] = {
    ("digits", "quick"): _plain(
        dataclasses.replace(DIGITS, validation=0, epochs=20), steps=7, test_steps=20
    ),
    ("mnist", "quick"): _plain(dataclasses.replace(MNIST, validation=0), steps=10, test_steps=50),
    ("cifar10", "quick"): _plain(
        dataclasses.replace(CIFAR10, validation=0, dtype="float32", radii=(0.03, 0.5, 12.0)),
        steps=10,
        test_steps=50,
    ),
    ("mnist", "paper"): Setting(
        recipe=MNIST_PAPER,
        sizes=(0.01, 0.1, 0.05),
        steps=(50, 100, 50),
        test_steps=(100, 200, 100),
        msd_radii=(0.3, 1.5, 12.0),
        msd_sizes=(0.01, 0.2, 0.05),
        msd_steps=100,
        **_PAPER,
    ),
    ("cifar10", "paper"): Setting(
        recipe=CIFAR10_PAPER,
        sizes=(0.003, 0.05, 0.1),
        steps=(40, 50, 50),
        test_steps=(100, 200, 100),
        msd_radii=(0.03, 0.3, 12.0),
        msd_sizes=(0.003, 0.05, 0.05),
        msd_steps=50,
        **_PAPER,
    ),
}

RECIPES: Recipes = {name: setting.recipe for name, setting in SETTINGS.items()}


def setting_of(dataset: str, preset: str) -> Setting:
    """The setting whose recipe `experiments.common.recipes.recipe` finds: similar sets share it."""
    return SETTINGS[kin(dataset), preset]


PUBLISHED: Mapping[str, Mapping[str, Sequence[float]]] = {
    "mnist": {
        "linf": (99.1, 90.3, 45.3, 1.4, 1.4),
        "l2": (99.4, 0.4, 87.0, 43.4, 0.4),
        "l1": (98.9, 0.0, 70.3, 71.8, 0.0),
        "worst": (98.9, 68.4, 82.1, 54.6, 53.7),
        "augmented": (99.1, 83.7, 75.0, 15.6, 15.6),
        "msd": (98.2, 63.7, 82.6, 62.3, 58.7),
    },
    "cifar10": {
        "linf": (83.3, 50.7, 57.3, 16.0, 15.6),
        "l2": (90.2, 28.3, 61.6, 46.6, 27.5),
        "l1": (73.3, 0.2, 0.0, 7.9, 0.0),
        "worst": (81.0, 44.9, 61.7, 39.4, 34.9),
        "augmented": (84.6, 42.5, 65.0, 54.0, 40.6),
        "msd": (81.7, 47.6, 64.3, 53.4, 46.1),
    },
}
"""Tables 5.2 and 5.3: clean accuracy and the worst case over the attacks of each ball and of all,
in %."""
