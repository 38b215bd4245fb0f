"""How a data set is trained and attacked at each preset."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxrobust import checks

from .attack_menu import Ball, make_threat


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything about a study but the training method: the same for all rows of its table."""

    model: str
    """Name in `jaxrobust.models.build`."""
    epsilon: float
    """Radius of the ball in training and evaluation, in pixels of [0, 1]."""
    step_size: float
    steps: int
    """Steps of the training attack."""
    epochs: int
    batch_size: int
    optimizer: str
    learning_rate: float
    schedule: str
    schedule_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    momentum: float = 0.9
    weight_decay: float = 0.0
    decay_all: bool = True
    """Whether biases and normalization parameters decay too."""
    l1: float = 0.0
    """Weight of the penalty on absolute weights."""
    augment: bool = False
    """Random crops and flips."""
    validation: int = 0
    """Training images held out, attacked after every epoch."""
    eval_step_size: float = 0.01
    eval_steps: int = 10
    """Steps of the PGD that the table reports; validation uses the training attack's length."""
    ramp: float = 0.0
    """Share of training over which radius and step size grow to their full values."""
    attack_mode: str = "eval"
    """Batch statistics inside training attacks: running ("eval"), or those of the batch."""
    start: str = "uniform"
    """Start of every row's multi-step training attack alike; see `defense_menu.STARTS`."""
    temperature: float = 5e-6
    """Temperature of DALE's noise, sqrt(2 * step size * temperature)."""
    noise: str = "laplace"
    """DALE's: laplace inside the sign (paper), or gaussian outside it (released code)."""
    relative_noise: bool = False
    """DALE's noise in units of each example's mean |gradient entry|."""
    dual_update: str = "batch"
    """When the multiplier moves: after every batch (released code) or every epoch (paper)."""
    dual: str = "pi"
    """What moves the multiplier: "pi", a controller whose strength grows over the run and whose
    gains are for runs of any length; or "ascent", the paper's dual ascent."""
    dual_integral: float = 32.0
    """Gain of pi: what a violation as large as rho throughout the run would add at full
    strength."""
    dual_proportional: float = 2.0
    """Gain of pi: what a fall of the violation by rho takes back."""
    dual_window: float = 0.1
    """Window of pi: share of the run that it averages the violation over, for its proportional
    part."""
    dual_growth: float = 3.0
    """Exponent of pi: the power of the share of training by which its strength grows."""
    dual_step: float = 1e-3
    """Step size of ascent, for every move."""
    dual_initial: float = 0.0
    beta: float = 6.0
    """TRADES' weight, 1 / lambda."""
    alp: float = 0.1
    """Weight of logit pairing by the norm itself: .5 can hold runs at the constant prediction."""
    clp: float = 0.5
    """The same, on clean and adversarial pairs without the adversarial loss."""
    rho: tuple[float, ...] = (0.5, 0.8, 1.0)
    single_start: str = "uniform"
    """Start of FGSM from a random start; see `defense_menu.STARTS`."""
    grad_align: float = 0.2
    """Weight of gradient alignment."""
    curriculum_threshold: float = 90.0
    """Training accuracy, in %, at which a curriculum's attack gains a step."""
    dtype: str = "float32"
    """Compute type of the model; parameters stay float32."""
    norm: str = "linf"
    """Norm of the ball: linf, l2 or l1."""
    radii: tuple[float, float, float] = (0.3, 1.5, 12.0)
    """Radii of the linf, l2 and l1 balls, for methods that train on their union."""
    model_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Options of the network, such as its width; see `RAW`."""
    autoattack: int = 0
    """Test images, the first ones, that AutoAttack judges too."""

    @property
    def threat(self) -> Ball:
        """The ball."""
        return make_threat(self.norm, self.epsilon)


RAW: Mapping[str, Any] = {"mean": None, "std": None}
"""Options of a network that sees color images as they are, where others scale them."""

# The released code at the time of the paper: 50 epochs at a constant rate (later it divided by 10
# after 25, 35 and 40), batches of 128, every multi-step attack started at x + 1e-3 N(0, I), pairing
# weights of 1, TRADES' beta 1 on MNIST, noise coefficients c = sqrt(2 a T) of 1e-3 on MNIST and at
# last 0 on CIFAR-10, a multiplier that starts at 1 and moves every batch by plain dual ascent. Not
# in either: the 1,000 images held out.
DALE_MNIST = Recipe(
    model="dale_mnist",
    epsilon=0.3,
    step_size=0.1,
    steps=7,
    epochs=50,
    batch_size=128,
    optimizer="sgd",
    learning_rate=0.01,
    schedule="constant",
    weight_decay=3.5e-3,
    validation=1000,
    eval_step_size=0.1,
    eval_steps=10,
    start="gaussian",
    temperature=1e-3**2 / (2 * 0.1),
    dual="ascent",
    dual_initial=1.0,
    beta=1.0,
    alp=1.0,
    clp=1.0,
)

# 75, 90 and 100 of 120 epochs are the released code's stable preset; its networks see raw pixels.
DALE_CIFAR10 = dataclasses.replace(
    DALE_MNIST,
    model="resnet18",
    epsilon=8 / 255,
    step_size=0.007,
    steps=10,
    epochs=120,
    schedule="piecewise",
    schedule_options={"at": (75 / 120, 90 / 120, 100 / 120), "factor": 0.1},
    augment=True,
    model_options=RAW,
    eval_step_size=0.003,
    eval_steps=20,
    temperature=0.0,
    beta=6.0,
    radii=(8 / 255, 0.5, 12.0),
)

DIGITS = Recipe(
    model="digits_cnn",
    epsilon=0.2,
    step_size=0.05,
    steps=7,
    epochs=12,
    batch_size=32,
    optimizer="adam",
    learning_rate=4e-3,
    schedule="cyclic",
    validation=200,
    eval_step_size=0.02,
    eval_steps=20,
    radii=(0.2, 0.6, 2.0),
    temperature=1e-5,
    rho=(0.1, 0.2, 0.4),
    curriculum_threshold=60.0,
)
"""The embedded digits in seconds a run."""

MNIST = Recipe(
    model="wong_small",
    epsilon=0.3,
    step_size=0.075,
    steps=7,
    epochs=10,
    batch_size=128,
    optimizer="adam",
    learning_rate=3e-3,
    schedule="cyclic",
    schedule_options={"top": 0.2},
    # At the full radius from the start this network stays at the constant prediction.
    ramp=0.3,
    validation=1000,
    eval_step_size=0.01,
    eval_steps=40,
    rho=(0.1, 0.2),
    # Clipped, half of the noise on black pixels would be lost (Wong's thesis, Algorithm 7).
    single_start="unclipped",
    # At 90 % the curriculum is at its second or third step when so short a run ends.
    curriculum_threshold=60.0,
)
"""MNIST with a small network, in minutes a run on CPU cores."""

CIFAR10 = dataclasses.replace(
    DALE_CIFAR10,
    model="preact_resnet18",
    epochs=20,
    learning_rate=0.2,
    schedule="cyclic",
    schedule_options={},
    weight_decay=5e-4,
    step_size=2 / 255,
    dtype="bfloat16",
    model_options={},
    start="uniform",
    dual="pi",
    dual_initial=0.0,
    alp=MNIST.alp,
    clp=MNIST.clp,
)
"""CIFAR-10 in few epochs, on a GPU."""

Recipes = Mapping[tuple[str, str], Recipe]
"""Recipes by data set and preset."""

QUICK: Recipes = {
    ("digits", "quick"): DIGITS,
    ("mnist", "quick"): MNIST,
    ("cifar10", "quick"): CIFAR10,
}
"""What the studies share; each adds what its paper did."""

DALE: Recipes = {
    **QUICK,
    ("mnist", "paper"): DALE_MNIST,
    ("cifar10", "paper"): DALE_CIFAR10,
}

KIN: Mapping[str, tuple[str, ...]] = {
    "digits": ("digits",),
    "mnist": ("mnist", "fashion_mnist", "kmnist"),
    "cifar10": ("cifar10", "cifar100", "svhn_cropped"),
}
"""Data sets by the one whose recipes they are trained with."""


def kin(dataset: str) -> str:
    """The data set whose recipes it is trained with.

    Raises:
      ValueError: a data set without a recipe.
    """
    first = {name: first for first, names in KIN.items() for name in names}
    checks.choice("data set for a recipe", dataset, first)
    return first[dataset]


def recipe(dataset: str, preset: str, recipes: Recipes = QUICK, **changes: Any) -> Recipe:
    """The recipe of a data set at a preset, with the settings in `changes` that are not None.

    Similar data sets share a recipe: see `KIN`.

    Raises:
      ValueError: a data set without a recipe, or a preset it has none for.
    """
    own = kin(dataset)
    known = [p for d, p in recipes if d == own]
    checks.choice("preset", preset, known)
    changes = {name: value for name, value in changes.items() if value is not None}
    return dataclasses.replace(recipes[own, preset], **changes)


def resized(settings: Recipe, radius: float) -> Recipe:
    """The recipe at another radius of the ball, with steps that grow or shrink along with it."""
    share = radius / settings.epsilon
    return dataclasses.replace(
        settings,
        epsilon=radius,
        step_size=share * settings.step_size,
        eval_step_size=share * settings.eval_step_size,
    )
