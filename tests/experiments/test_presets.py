"""The paper presets number by number, each beside the source that it is taken from.

What a preset does otherwise on purpose, and what has no source (such as images held out), stands
in docs/deviations.md.
"""

from __future__ import annotations

from typing import Any

import pytest

from experiments.beta.config import BETA
from experiments.common.defense_menu import STARTS
from experiments.common.long_runs import RECIPES as OVERFITTING
from experiments.common.recipes import DALE, QUICK, RAW
from experiments.fast.recipes import SETTINGS as FAST
from experiments.fosc.recipes import LESSONS, UNTIL
from experiments.fosc.recipes import RECIPES as FOSC
from experiments.headline.recipes import SETTINGS as HEADLINE
from experiments.imagenet.recipes import IMAGENET
from experiments.overfitting import methods
from experiments.provable.recipes import PRESETS
from experiments.trades.recipes import SENSITIVITY, TABLE, THEOREM
from experiments.union.recipes import SETTINGS as UNION

MNIST, CIFAR10 = ("mnist", "paper"), ("cifar10", "paper")
PARTS = {
    "dale mnist": DALE[MNIST],
    "dale cifar10": DALE[CIFAR10],
    "trades mnist": TABLE[MNIST],
    "trades cifar10": TABLE[CIFAR10],
    "trades sweep mnist": SENSITIVITY[MNIST],
    "trades theorem": THEOREM[MNIST],
    "fosc mnist": FOSC[MNIST],
    "fosc cifar10": FOSC[CIFAR10],
    "beta": BETA[CIFAR10],
    "fast cifar10": FAST[CIFAR10].recipe,
    "fast cifar10 setting": FAST[CIFAR10],
    "fast cifar10 quick": FAST["cifar10", "quick"].recipe,
    "fast mnist": FAST[MNIST].recipe,
    "overfitting": OVERFITTING[CIFAR10],
    "union mnist": UNION[MNIST].recipe,
    "union mnist setting": UNION[MNIST],
    "union cifar10": UNION[CIFAR10].recipe,
    "union cifar10 setting": UNION[CIFAR10],
    "provable mnist": PRESETS["mnist"].recipe,
    "provable scaled": PRESETS["mnist-scaled"].recipe,
    "provable cifar10": PRESETS["cifar10"].recipe,
    "provable cifar10 setting": PRESETS["cifar10"],
    "provable svhn": PRESETS["svhn_cropped"].recipe,
    "quick mnist": QUICK["mnist", "quick"],
    "quick cifar10": QUICK["cifar10", "quick"],
    "headline cifar10": HEADLINE["cifar10"].recipe,
}

SGD = {"optimizer": "sgd", "momentum": 0.9}
DALE_CODE = "released DALE code, November 2021"

# Part -> source -> the fields it sets.
PINNED: dict[str, dict[str, dict[str, Any]]] = {
    "dale mnist": {
        "DALE, section 6": {"epsilon": 0.3},
        "DALE, Table 1": {"rho": (0.5, 0.8, 1.0), "eval_steps": 10},
        DALE_CODE: {
            "model": "dale_mnist", "step_size": 0.1, "steps": 7, "epochs": 50, "batch_size": 128,
            "learning_rate": 0.01, "schedule": "constant", "weight_decay": 3.5e-3, **SGD,
            "start": "gaussian", "alp": 1.0, "clp": 1.0, "beta": 1.0, "noise": "laplace",
            "dual": "ascent", "dual_initial": 1.0, "dual_step": 1e-3, "dual_update": "batch",
            # c = sqrt(2 a T) = 1e-3.
            "temperature": pytest.approx(5e-6), "relative_noise": False, "attack_mode": "eval",
        },
    },
    "dale cifar10": {
        "DALE, section 6": {"model": "resnet18", "epsilon": 8 / 255},
        "DALE, Table 1": {"rho": (0.5, 0.8, 1.0), "eval_steps": 20},
        DALE_CODE: {
            "step_size": 0.007, "steps": 10, "batch_size": 128, "learning_rate": 0.01,
            "weight_decay": 3.5e-3, **SGD, "augment": True, "start": "gaussian", "alp": 1.0,
            "clp": 1.0, "beta": 6.0, "temperature": 0.0, "eval_step_size": 0.003, "dual": "ascent",
            "dual_initial": 1.0, "dual_step": 1e-3,
        },
        "released DALE code, its stable preset": {
            "epochs": 120, "schedule": "piecewise",
            "schedule_options": {"at": (75 / 120, 90 / 120, 100 / 120), "factor": 0.1},
        },
        "released DALE code: raw pixels": {"model_options": RAW},
    },
    "trades mnist": {
        "TRADES, section 5.3.1": {
            "model": "trades_small", "epsilon": 0.3, "step_size": 0.01, "steps": 40, "epochs": 100,
            "learning_rate": 0.01, "batch_size": 128, "eval_step_size": 0.01, "eval_steps": 40,
        },
        "released TRADES code": {
            **SGD, "schedule_options": {"at": (0.55, 0.75, 0.9), "factor": 0.1},
            "start": "gaussian",
        },
    },
    "trades cifar10": {
        "TRADES, section 5.3.1": {
            "model": "wide_resnet", "epsilon": 0.031, "step_size": 0.007, "steps": 10,
            "learning_rate": 0.1, "batch_size": 128, "eval_step_size": 0.003, "eval_steps": 20,
            "epochs": 100,
        },
        "released TRADES code": {
            **SGD, "weight_decay": 2e-4, "augment": True, "start": "gaussian",
            "schedule_options": {"at": (0.75, 0.9), "factor": 0.1},
        },
    },
    "trades sweep mnist": {
        "TRADES, section 5.2": {"epsilon": 0.1, "steps": 20, "step_size": 0.01, "epochs": 50},
    },
    "trades theorem": {
        "TRADES, section 5.1": {"epsilon": 0.1, "steps": 20, "epochs": 30},
        "released TRADES code": {"step_size": 0.01},
    },
    "fosc mnist": {
        "FOSC, section 5.1": {
            "model": "fosc_mnist", "epsilon": 0.3, "steps": 10, "step_size": 0.3 / 4, "epochs": 50,
            "learning_rate": 0.01, "weight_decay": 1e-4, **SGD,
            "schedule_options": {"at": (20 / 50, 40 / 50), "factor": 0.1},
        },
    },
    "fosc cifar10": {
        "FOSC, section 5.1": {
            "model": "fosc_cifar", "epsilon": 8 / 255, "steps": 10, "step_size": 2 / 255,
            "epochs": 120, "learning_rate": 0.01, "weight_decay": 1e-4, **SGD,
            "schedule_options": {"at": (60 / 120, 100 / 120), "factor": 0.1},
        },
        "released FOSC code: raw pixels": {"model_options": RAW},
    },
    "beta": {
        "BETA, section 6": {
            "model": "resnet18", "epsilon": 8 / 255, "step_size": 2 / 255, "steps": 10, "beta": 5.0,
        },
    },
    "fast cifar10": {
        "thesis, section 4.1.1": {
            "model": "preact_resnet18", "epsilon": 8 / 255, "learning_rate": 0.2, "epochs": 30,
            "schedule": "cyclic", "schedule_options": {"top": 0.5}, "steps": 7,
            "step_size": 2 / 255, "eval_steps": 50,
        },
        "released fast-adversarial code": {
            **SGD, "weight_decay": 5e-4, "batch_size": 128, "attack_mode": "train",
            "dtype": "float16", "augment": True, "eval_step_size": 2 / 255,
            "model_options": {"shortcut": "raw", "initialization": "torch"},
            # The CIFAR-10 code clamps the start to the box.
            "single_start": "uniform",
        },
    },
    "fast cifar10 setting": {
        "thesis, section 4.1.2": {"drop": 20.0},
        "thesis, Table 4.1 (PGD-50-10)": {"restarts": 10},
        "thesis, Table 4.6": {"target": 45.0},
    },
    "fast cifar10 quick": {
        "thesis, section 4.1.1 and released code": {
            "attack_mode": "train", "schedule_options": {"top": 0.5},
        },
    },
    "fast mnist": {
        "thesis, section 4.2.1": {"epsilon": 0.3, "epochs": 10, "steps": 40, "step_size": 0.01},
        "released fast-adversarial code": {
            "optimizer": "adam", "learning_rate": 5e-3, "schedule_options": {"top": 0.4},
            "batch_size": 100,
        },
        "thesis, Algorithm 7": {"single_start": "unclipped"},
    },
    "overfitting": {
        "thesis, section 4.3.4": {
            "model": "preact_resnet18", "epsilon": 8 / 255, "step_size": 2 / 255, "steps": 10,
            "epochs": 200, "learning_rate": 0.1, "batch_size": 128, "weight_decay": 5e-4, **SGD,
            "schedule": "piecewise",
        },
        "released robust-overfitting code": {"attack_mode": "train", "decay_all": True},
    },
    "union mnist": {
        "thesis, section 5.4.1": {
            "epochs": 20, "optimizer": "sgd", "momentum": 0.9, "weight_decay": 5e-4,
            "schedule_options": {"at": (0.35, 0.75, 1.0), "levels": (1.0, 0.01, 0.001)},
            "radii": (0.3, 1.5, 12.0),
        },
    },
    "union mnist setting": {
        "thesis, section 5.4.1": {
            "msd_steps": 100, "msd_sizes": (0.01, 0.2, 0.05), "restarts": 10, "images": 1000,
        },
    },
    "union cifar10": {
        "thesis, section 5.4.1": {
            "model": "preact_resnet18", "epochs": 50, "learning_rate": 0.1,
            "schedule_options": {"at": (0.4, 0.8, 1.0), "levels": (1.0, 0.05, 0.0)},
            "radii": (0.03, 0.5, 12.0),
        },
    },
    "union cifar10 setting": {
        "thesis, section 5.4.1": {"msd_steps": 50, "msd_sizes": (0.003, 0.05, 0.05)},
    },
    "provable mnist": {
        "thesis, Table 3.1": {
            "epochs": 100, "batch_size": 50, "optimizer": "adam", "learning_rate": 1e-3,
            "ramp": 0.5,
        },
    },
    "provable svhn": {"thesis, Table 3.1": {"batch_size": 20}},
    "provable scaled": {"thesis, section 3.5.3": {"epochs": 60, "batch_size": 50, "ramp": 20 / 60}},
    "provable cifar10": {
        "thesis, section 3.5.3": {
            **SGD, "learning_rate": 0.05, "weight_decay": 5e-4, "augment": True,
        },
    },
    "provable cifar10 setting": {"released convex_adversarial code": {"clip": 1.0, "first": 0.001}},
    # Not papers': short runs that share one start, and quiet noise.
    "quick mnist": {
        "one start for all rows": {"start": "uniform"},
        "thesis, Algorithm 7": {"single_start": "unclipped"},
        "released DALE code: c = 1e-3 at most": {"temperature": 5e-6, "relative_noise": False},
    },
    "quick cifar10": {
        "one start for all rows": {"start": "uniform"},
        "released DALE code, at last": {"temperature": 0.0},
    },
    "headline cifar10": {
        "released codes of FGSM-RS and N-FGSM": {
            "model_options": {"shortcut": "raw", "initialization": "torch"}, "attack_mode": "train",
        },
    },
}  # fmt: skip

CASES = [
    pytest.param(part, field, value, source, id=f"{part}: {field} ({source})")
    for part, sources in PINNED.items()
    for source, fields in sources.items()
    for field, value in fields.items()
]


@pytest.mark.parametrize(("part", "field", "value", "source"), CASES)
def test_a_preset_is_what_its_source_says(part: str, field: str, value: Any, source: str) -> None:
    found = getattr(PARTS[part], field)
    assert found == value, f"{part}: {field} is {found}, but {value} in {source}"


def test_numbers_that_no_recipe_holds() -> None:
    # Cai et al. 2018: up to 40 steps on MNIST and 7 on CIFAR-10.
    assert (LESSONS[MNIST], LESSONS[CIFAR10]) == (40, 7)
    # FOSC, section 5.1: T' is 100 of 120 epochs.
    assert UNTIL[CIFAR10] == 100 / 120
    # Thesis, Figure 4.8 and section 4.3.3: 500 epochs of multiple decay beside 200 of the others.
    paper = OVERFITTING[CIFAR10]
    (row,) = methods.schedules(["multiple_decay"], paper, None)
    assert row.changes["epochs"] == 500
    # Thesis, section 4.4, footnote 14: the l2 penalty spares biases and batch norm.
    (row,) = methods.penalties("l2", [5e-3], None)
    assert row.recipe(paper).decay_all is False
    # Thesis, Table 4.2: PGD 40 epochs, Free 96 / 8 at a rate of .04.
    shares = FAST[CIFAR10].shares
    assert shares["pgd"].epochs * 30 == pytest.approx(40)
    assert shares["free"].epochs * 30 == pytest.approx(96 / 8)
    assert shares["free"].rate * 0.2 == pytest.approx(0.04)
    # Thesis, section 4.2.3: three phases of 128, 224 and 288 pixels.
    assert [phase.size for phase in IMAGENET.phases] == [128, 224, 288]
    assert [phase.epochs for phase in IMAGENET.phases] == [6, 6, 3]
    # Recipes name starts that exist.
    for part in PARTS.values():
        if hasattr(part, "single_start"):
            assert {part.start, part.single_start} <= STARTS.keys()
