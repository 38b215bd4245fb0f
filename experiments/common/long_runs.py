"""How the studies of learning curves train: long enough for robust accuracy to fall again."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from jaxrobust import checks
from jaxrobust.data import Dataset, Split

from .options import Options
from .recipes import QUICK, Recipe, Recipes, kin

# Wong's thesis, sections 4.3.4 and 4.4: /10 at epochs 100 and 150 of 200.
PAPER = Recipe(
    model="preact_resnet18",
    epsilon=8 / 255,
    step_size=2 / 255,
    steps=10,
    epochs=200,
    batch_size=128,
    optimizer="sgd",
    learning_rate=0.1,
    schedule="piecewise",
    weight_decay=5e-4,
    augment=True,
    validation=1000,
    eval_step_size=2 / 255,
    eval_steps=10,
    # As the thesis's code attacks.
    attack_mode="train",
)

# Few images and a wide network, which can fit them robustly; the ball is small enough for that.
DIGITS = dataclasses.replace(
    QUICK["digits", "quick"],
    model="mlp",
    epsilon=0.1,
    step_size=0.025,
    steps=10,
    epochs=40,
    batch_size=20,
    optimizer="sgd",
    learning_rate=0.1,
    schedule="piecewise",
    weight_decay=5e-4,
    eval_step_size=0.025,
    eval_steps=10,
)
MNIST = dataclasses.replace(DIGITS, batch_size=50, validation=500)
CIFAR10 = dataclasses.replace(
    PAPER,
    epochs=40,
    dtype="bfloat16",
)

RECIPES: Recipes = {
    ("digits", "quick"): DIGITS,
    ("mnist", "quick"): MNIST,
    ("cifar10", "quick"): CIFAR10,
    ("cifar10", "paper"): PAPER,
}

BALLS: Mapping[str, tuple[float, float]] = {
    "digits": (0.5, 0.125),
    "mnist": (1.5, 0.375),
    "cifar10": (128 / 255, 15 / 255),
}
"""Radius and step size in the l2 norm (thesis, section 4.3.4, for CIFAR-10 and its kin)."""


def in_norm(norm: str) -> Recipes:
    """The recipes with balls of that norm, linf or l2."""
    if norm == "linf":
        return RECIPES
    changed = {}
    for (dataset, preset), recipe in RECIPES.items():
        epsilon, size = BALLS[dataset]
        changed[dataset, preset] = dataclasses.replace(
            recipe, norm=norm, epsilon=epsilon, step_size=size, eval_step_size=size
        )
    return changed


IMAGES: Mapping[tuple[str, str], int] = {("digits", "quick"): 100, ("mnist", "quick"): 500}
"""Training images of a preset, the first ones; all of them where it has no entry."""


def images_of(options: Options, images: int | None) -> int | None:
    """How many images to train on: those asked for, else the preset's; None for all."""
    if images is not None:
        checks.at_least("images", images, 1)
        return images
    return IMAGES.get((kin(options.dataset), options.preset))


def split_off(dataset: Dataset, images: int | None) -> tuple[Dataset, Split]:
    """The data set with its first training images alone, and the rest of those.

    Raises:
      ValueError: more images than there are.
    """
    x, y = dataset.train
    if images is not None and images > len(y):
        raise ValueError(f"images={images}, but {dataset.label} has {len(y)} to train on")
    count = len(y) if images is None else images
    kept = dataclasses.replace(dataset, train=Split(x[:count], y[:count]))
    return kept, Split(x[count:], y[count:])
