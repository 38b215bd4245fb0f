"""What each preset of the Wasserstein study trains, attacks and compares itself with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxrobust import attacks, sinkhorn
from jaxrobust.threats import Linf, Wasserstein
from jaxrobust.types import Attack

from ..common.recipes import Recipe


@dataclasses.dataclass(frozen=True)
class Plans:
    """The transport plans that an adversary may use."""

    lam: float = 1000.0
    """Weight of the entropic projection: the smaller, the more it blurs."""
    size: int = 5
    """Mass moves within a window of so many pixels on a side."""
    p: float = 1.0
    """Moving a unit of mass by d pixels costs d^p."""

    @property
    def name(self) -> str:
        """Tells variants apart in tables and folders."""
        return f"lam={self.lam:g} p={self.p:g} {self.size}x{self.size}"

    @property
    def cost(self) -> np.ndarray:
        """What a move by each offset of the window costs, `[size, size]`."""
        return sinkhorn.window(self.size, p=self.p)

    def threat(self, radius: float) -> Wasserstein:
        """The ball of these plans."""
        return Wasserstein(radius, lam=self.lam, cost=self.cost)


@dataclasses.dataclass(frozen=True)
class Growth:
    """A range of budgets: the radius grows by `factor` every `every` of `steps` steps."""

    first: float
    factor: float
    every: int
    steps: int

    @property
    def radii(self) -> np.ndarray:
        """Every radius an attack may reach, increasing."""
        return self.first * self.factor ** np.arange(1 + (self.steps - 1) // self.every)

    def attack(self, plans: Plans, step_size: float) -> Attack:
        """The thesis' attack: linf steps of `step_size` in the growing ball of `plans`."""
        return attacks.growing(
            plans.threat(self.first),
            step=Linf(1.0),
            step_size=step_size,
            steps=self.steps,
            factor=self.factor,
            every=self.every,
        )


@dataclasses.dataclass(frozen=True)
class Setting:
    """A study: data, training, attack, and the figures published for it."""

    dataset: str
    recipe: Recipe
    """Recipe of the networks trained here; `epsilon` to `steps` are those of `train`."""
    train: Growth
    test: Growth
    plans: Plans
    models: tuple[str, ...]
    """Rows of the table; see `subjects.MODELS`."""
    radii: tuple[float, ...]
    """Columns of the table."""
    limit: int
    """Test images to attack."""
    linf: float
    """First radius of the linf attack that Figure 5.2 compares with."""
    step_size: float = 0.1
    """Step size of the attack's linf steps, in pixels of [0, 1]."""
    published: Mapping[str, tuple[float | None, ...]] = dataclasses.field(default_factory=dict)
    """Clean accuracy, then those at the first of `radii`, None where none is given in the text.
    Table 5.1, sections 5.2.1 and 5.2.2, Figure 5.4."""


def _recipe(model: str, train: Growth, test: Growth, **options: Any) -> Recipe:
    return Recipe(
        model=model,
        epsilon=train.first,
        step_size=Setting.step_size,
        steps=train.steps,
        eval_step_size=Setting.step_size,
        eval_steps=test.steps,
        **options,
    )


# The thesis does not say for how long it trains after the rate falls at epoch 10.
_SGD = {
    "epochs": 15,
    "batch_size": 128,
    "optimizer": "sgd",
    "learning_rate": 0.1,
    "schedule": "piecewise",
    "schedule_options": {"at": (10 / 15,), "factor": 0.1},
    "weight_decay": 5e-4,
}

_DIGITS_TRAIN = Growth(first=0.1, factor=1.4, every=3, steps=15)
_DIGITS_TEST = Growth(first=0.1, factor=1.25, every=4, steps=60)
_MNIST_TRAIN = Growth(first=0.1, factor=1.4, every=5, steps=50)
_MNIST_TEST = Growth(first=0.3, factor=1.1, every=10, steps=200)
_CIFAR_TRAIN = Growth(first=0.01, factor=1.5, every=5, steps=50)
_CIFAR_TEST = Growth(first=0.001, factor=1.17, every=10, steps=400)

_MNIST = Setting(
    dataset="mnist",
    recipe=_recipe("wong_small", _MNIST_TRAIN, _MNIST_TEST, **_SGD),
    train=_MNIST_TRAIN,
    test=_MNIST_TEST,
    plans=Plans(),
    models=("standard", "binarized", "binarized-inside", "linf", "adversarial"),
    radii=(0.5, 1.0, 1.83),
    limit=200,
    linf=0.05,
    published={
        "standard": (98.90, 50, 4),
        "binarized": (98.73, None, 14),
        "linf": (98.20, None, 48),
        "adversarial": (96.95, None, 86),
    },
)

PRESETS: Mapping[str, Setting] = {
    "quick": Setting(
        dataset="digits",
        recipe=_recipe(
            "digits_cnn",
            _DIGITS_TRAIN,
            _DIGITS_TEST,
            epochs=12,
            batch_size=32,
            optimizer="adam",
            learning_rate=4e-3,
            schedule="cyclic",
        ),
        train=_DIGITS_TRAIN,
        test=_DIGITS_TEST,
        plans=Plans(size=3),
        models=("standard", "adversarial"),
        radii=(0.25, 0.5, 1.0),
        limit=100,
        linf=0.02,
    ),
    "mnist": _MNIST,
    "mnist-train": dataclasses.replace(_MNIST, models=("standard", "adversarial")),
    "cifar10": Setting(
        dataset="cifar10",
        recipe=_recipe("resnet18", _CIFAR_TRAIN, _CIFAR_TEST, augment=True, **_SGD),
        train=_CIFAR_TRAIN,
        test=_CIFAR_TEST,
        plans=Plans(lam=3000.0),
        models=("standard", "adversarial"),
        radii=(0.01, 0.1),
        limit=1000,
        linf=0.002,
        published={"standard": (94.70, 75, 3), "adversarial": (80.69, None, 76)},
    ),
}
