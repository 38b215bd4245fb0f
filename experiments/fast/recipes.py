"""How each data set is trained at each preset, and the figures published for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..common.recipes import CIFAR10, DIGITS, MNIST, Recipe, Recipes, kin


class Share(NamedTuple):
    """Shares of a recipe's epochs and of its learning rate, for a method of other cost."""

    epochs: float = 1.0
    rate: float = 1.0


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a study of single-step training is made of, beside the options."""

    recipe: Recipe
    """Recipe of FGSM; its `steps` and `step_size` are those of PGD training and of validation."""
    shares: Mapping[str, Share]
    """How long and how fast PGD and Free train, compared with FGSM; replays of a batch are not
    epochs."""
    budgets: tuple[int, ...]
    """Numbers of epochs of the part `time`; replays count, as in the thesis."""
    target: float
    """Robust accuracy in % that the part `time` waits for."""
    ratios: tuple[float, ...]
    """Step sizes of the part `steps`, in radii."""
    restarts: int
    """Restarts of the PGD that judges."""
    drop: float
    """Loss of robust accuracy within an epoch, in percentage points, that ends a run."""
    small: Mapping[str, Any]
    """Changes of the recipe for networks that integer programs can decide."""
    verified: float
    """Radius that they decide, in radii of training."""
    exact: int
    """Test images that they are asked about."""
    fragile: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Changes of the recipe under which single steps collapse within minutes."""
    fragile_images: int = 5000
    """Training images there."""
    fragile_drop: float = 8.0
    """What counts as a collapse there: so small a network has less to lose."""
    gentle: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Changes of the recipe for small networks and short runs, which else learn nothing."""

    def share(self, method: str) -> Share:
        """The share of that method."""
        return self.shares.get(method, Share())


_SHORTER = {"pgd": Share(), "free": Share(epochs=0.5)}
_SMALL = {"ratios": (0.25, 0.5, 1.0, 1.25, 1.5, 2.0), "restarts": 3}
_DROP = 20.0
"""Section 4.1.2."""

# Epochs and rates of Table 4.2: PGD 40 / 30, Free 96 / 8 / 30 and .04 / .2.
_THESIS = {"pgd": Share(40 / 30), "free": Share(96 / 8 / 30, 0.2)}
_EIGHTHS = tuple(i / 8 for i in range(1, 17))

# Wong's thesis, sections 4.1.1 and 4.2 and the released code: batches of 128, SGD with a triangle
# that peaks in mid-run, half precision, attacks in training mode. 1,000 images are held out for
# the check that stops a run, where the thesis checks a training batch.
CIFAR10_PAPER = dataclasses.replace(
    CIFAR10,
    epochs=30,
    learning_rate=0.2,
    schedule="cyclic",
    schedule_options={"top": 0.5},
    momentum=0.9,
    weight_decay=5e-4,
    epsilon=8 / 255,
    step_size=2 / 255,
    steps=7,
    batch_size=128,
    attack_mode="train",
    eval_step_size=2 / 255,
    eval_steps=50,
    # The released code's network and precision.
    model_options={"shortcut": "raw", "initialization": "torch"},
    dtype="float16",
)

# Section 4.2.1 and the released code: Adam, a triangle up to 5e-3 at 2/5 of 10 epochs, no ramp.
MNIST_PAPER = dataclasses.replace(
    MNIST,
    epochs=10,
    learning_rate=5e-3,
    schedule_options={"top": 0.4},
    batch_size=100,
    step_size=0.01,
    steps=40,
    ramp=0.0,
    eval_step_size=0.01,
    eval_steps=50,
)

# Found by trying: one convolution, few images, a rate that stays high.
_FRAGILE: Mapping[str, Any] = {
    "model": "single_conv",
    "model_options": {"filters": 8},
    "dtype": "float32",
    "augment": False,
    "epochs": 20,
    "batch_size": 64,
    "optimizer": "adam",
    "learning_rate": 3e-3,
    "schedule": "constant",
    "schedule_options": {},
    "weight_decay": 0.0,
}

SETTINGS: Mapping[tuple[str, str], Setting] = {
    ("digits", "quick"): Setting(
        # A radius and a rate at which the start matters: at the base recipe's it does not.
        recipe=dataclasses.replace(
            DIGITS, epsilon=0.3, step_size=0.075, epochs=40, learning_rate=2e-2
        ),
        shares=_SHORTER,
        budgets=(8, 16, 32, 64),
        target=50.0,
        # In 34 steps an epoch robustness is lost more slowly.
        drop=15.0,
        small={"model": "wong_wide", "model_options": {"width": 2}},
        gentle={"epsilon": 0.2, "step_size": 0.05, "ramp": 0.3},
        verified=0.3,
        exact=50,
        **_SMALL,
    ),
    ("mnist", "quick"): Setting(
        recipe=MNIST,
        shares=_SHORTER,
        budgets=(4, 8, 16, 32),
        target=80.0,
        drop=_DROP,
        small={"model": "wong_small"},
        verified=1 / 3,
        exact=10,
        **_SMALL,
    ),
    ("cifar10", "quick"): Setting(
        recipe=dataclasses.replace(CIFAR10, attack_mode="train", schedule_options={"top": 0.5}),
        shares=_SHORTER,
        budgets=(4, 8, 16, 32),
        target=40.0,
        drop=_DROP,
        fragile=_FRAGILE,
        small={"model": "wong_small"},
        verified=1 / 8,
        exact=10,
        **_SMALL,
    ),
    ("mnist", "paper"): Setting(
        recipe=MNIST_PAPER,
        shares=_SHORTER,
        budgets=(2, 4, 6, 8, 10, 16, 24, 32),
        target=85.0,
        drop=_DROP,
        ratios=_EIGHTHS,
        restarts=10,
        small={"model": "wong_small"},
        verified=1 / 3,
        exact=1000,
    ),
    ("cifar10", "paper"): Setting(
        recipe=CIFAR10_PAPER,
        shares=_THESIS,
        budgets=(5, 10, 15, 20, 30, 40, 60, 80, 96),
        target=45.0,
        drop=_DROP,
        ratios=_EIGHTHS,
        restarts=10,
        small={"model": "wong_small"},
        verified=1 / 8,
        exact=100,
    ),
}

RECIPES: Recipes = {name: setting.recipe for name, setting in SETTINGS.items()}


def setting_of(dataset: str, preset: str) -> Setting:
    """The setting whose recipe `experiments.common.recipes.recipe` finds: similar sets share it."""
    return SETTINGS[kin(dataset), preset]


TABLE: Mapping[str, Mapping[str, Sequence[float | None]]] = {
    "cifar10": {
        "zero": (85.18, 0.00, 12.37),
        "zero stopped": (71.14, 38.86, 7.89),
        "previous": (86.02, 42.37, 12.21),
        "uniform": (85.32, 44.01, 12.33),
        "uniform 1.25 eps": (83.81, 46.06, 12.17),
        "uniform 2 eps": (86.05, 0.00, 12.06),
        "uniform 2 eps stopped": (70.93, 40.38, 8.81),
        "free": (78.38, 46.18, 20.91),
        "pgd": (82.46, 50.69, 68.8),
    }
}
"""Table 4.1 (with DAWNBench's techniques): clean and robust accuracy in %, minutes on an RTX 2080
Ti."""

STARTS: Mapping[str, Mapping[str, Sequence[float]]] = {
    "mnist": {
        "R+FGSM": (34.58, 36.06),
        "R+FGSM full step": (26.53, 32.48),
        "R+FGSM uniform start": (72.92, 10.40),
        "uniform start full step": (86.21, 0.75),
    }
}
"""Table 4.3: robust accuracy in % and its standard deviation over 10 seeds."""

VERIFIED: Mapping[str, Mapping[str, Sequence[float]]] = {
    "mnist": {"pgd": (99.20, 97.66, 89.90, 96.7), "fgsm_rs": (99.20, 97.53, 88.77, 96.8)}
}
"""Table 4.4: clean, robust at .1 and .3, and verified at .1."""

TIMES: Mapping[str, Mapping[str, Sequence[float]]] = {
    "cifar10": {
        "fgsm_rs": (15, 25.36, 6.34),
        "free": (80, 13.08, 17.44),
        "pgd": (10, 104.94, 17.49),
    }
}
"""Table 4.6: epochs to 45 %, seconds per epoch, minutes."""
