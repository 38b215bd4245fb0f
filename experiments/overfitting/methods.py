"""Rows of the study of robust overfitting: PGD training with one thing changed in each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxrobust import attacks, checks, defenses, training
from jaxrobust.data import Dataset
from jaxrobust.defenses import Defense

from ..common.defense_menu import PLAIN, mode, stepped
from ..common.long_runs import split_off
from ..common.recipes import Recipe, kin
from ..common.rows import Method

REFLECT = training.crop_flip(mode="reflect")
"""The thesis's crops and flips."""

SCHEDULES: Mapping[str, Mapping[str, Any]] = {
    "piecewise": {"schedule": "piecewise", "schedule_options": {"at": (0.5, 0.75)}},
    "multiple_decay": {"schedule": "staircase", "schedule_options": {}},
    "linear": {"schedule": "linear", "schedule_options": {"start": 0.5, "stop": 0.75, "end": 0.1}},
    "cyclic": {"schedule": "cyclic", "schedule_options": {"top": 0.4}},
    "cosine": {"schedule": "cosine", "schedule_options": {}},
    "constant": {"schedule": "constant", "schedule_options": {}},
}
"""What each row of Figure 4.8 changes."""

WIDE: Mapping[str, tuple[str, Mapping[str, int]]] = {
    "digits": ("wong_wide", {}),
    "mnist": ("wong_wide", {}),
    "cifar10": ("wide_resnet", {"depth": 28}),
}
"""A network with a width for each kind of data."""

WIDTH: Mapping[str, int] = {"wong_wide": 2, "wide_resnet": 10}
"""Its width where there is one row of it (thesis, section 4.3.8, for the residual network)."""


def by_pgd(settings: Recipe, dataset: Dataset) -> Defense:
    """PGD training, the baseline."""
    return PLAIN["pgd"](settings, dataset)


def by_trades(settings: Recipe, dataset: Dataset) -> Defense:
    """TRADES, attacked in evaluation mode, as in the thesis's code for TRADES alone."""
    return PLAIN["trades"](dataclasses.replace(settings, attack_mode="eval"), dataset)


def trades_schedules(settings: Recipe, dataset: Dataset, name: str) -> list[Method]:
    """TRADES by its own schedule and by Madry's, in the recipe's network and in a wide one.

    Its own divides the rate after 75 and 90 of 100 epochs, Madry's after 100 and 150 of 200.

    Args:
      name: of the data set, which tells the wide network.
    """
    wide, options = WIDE[kin(name)]
    networks = {
        settings.model: {},
        wide: {"model": wide, "model_options": {**options, "width": WIDTH[wide]}},
    }
    courses = {
        "trades_rate": {"epochs": settings.epochs // 2, "schedule_options": {"at": (0.75, 0.9)}},
        "standard_rate": {"schedule_options": {"at": (0.5, 0.75)}},
    }
    defense = by_trades(settings, dataset)
    return [
        Method(f"{network}_{course}", defense, changes={"schedule": "piecewise", **own, **at})
        for network, own in networks.items()
        for course, at in courses.items()
    ]


def fgsm_rs(settings: Recipe) -> Defense:
    """FGSM from a uniform start with steps of 7/8 of the radius, for training to convergence.

    Steps of 10/8, best in short training, overfit catastrophically (section 4.3.7).
    """
    size = settings.epsilon * 7 / 8
    return defenses.fgsm(settings.threat, start=attacks.uniform, step_size=size, **mode(settings))


PENALTIES: Mapping[str, Callable[[float], Mapping[str, Any]]] = {
    "l1": lambda weight: {"l1": weight},
    # Other than the baseline's decay it spares biases and batch norm (thesis, footnote 14).
    "l2": lambda weight: {"weight_decay": weight, "decay_all": False},
}
"""What the penalty of that name changes in the recipe."""


def penalties(name: str, weights: Sequence[float], defense: Defense) -> list[Method]:
    """PGD training with the penalty `name` on the weights, at each of its weights."""
    return [Method(f"{name} {w:g}", defense, changes=PENALTIES[name](w)) for w in weights]


def cutouts(sizes: Sequence[int], dataset: Dataset, defense: Defense) -> list[Method]:
    """PGD training on images with a black square of each size."""
    side = min(dataset.shape[:2])
    if any(size > side for size in sizes):
        raise ValueError(
            f"cutout of {max(sizes)} pixels does not fit images of {side}; use {side} at most"
        )
    return [Method(f"cutout {size}", defense, augment=training.cutout(size)) for size in sizes]


def mixups(alphas: Sequence[float], settings: Recipe) -> list[Method]:
    """PGD training on mixed images, for each parameter of the Beta distribution."""
    climb = attacks.pgd(settings.threat, keep="last", **stepped(settings))
    return [
        Method(f"mixup {alpha:g}", defenses.mixup(climb, alpha=alpha, **mode(settings)))
        for alpha in alphas
    ]


def schedules(names: Sequence[str], settings: Recipe, defense: Defense) -> list[Method]:
    """PGD training by each learning-rate schedule.

    The cyclic one peaks at twice the rate, multiple decay has 2.5 times the epochs.
    """
    rows = []
    for name in names:
        checks.choice("schedule", name, SCHEDULES)
        own: dict[str, Any] = {}
        if name == "cyclic":
            own = {"learning_rate": 2 * settings.learning_rate}
        if name == "multiple_decay":
            own = {"epochs": settings.epochs * 5 // 2}
        rows.append(Method(name, defense, changes={**SCHEDULES[name], **own}))
    return rows


def widths(values: Sequence[int], dataset: str, defense: Defense) -> list[Method]:
    """PGD training of the wide network that goes with a data set at each width."""
    model, options = WIDE[kin(dataset)]
    rows = []
    for width in values:
        checks.at_least("width", width, 1)
        changes = {"model": model, "model_options": {**options, "width": width}}
        rows.append(Method(f"width {width}", defense, changes=changes))
    return rows


def radii(values: Sequence[float], settings: Recipe, dataset: Dataset) -> list[Method]:
    """PGD training and evaluation at each radius; step sizes stay the same share of it."""
    rows = []
    for radius in values:
        checks.positive("radius", radius)
        scale = radius / settings.epsilon
        changes = {
            "epsilon": radius,
            "step_size": scale * settings.step_size,
            "eval_step_size": scale * settings.eval_step_size,
        }
        own = dataclasses.replace(settings, **changes)
        rows.append(Method(f"radius {radius:.4g}", by_pgd(own, dataset), changes=changes))
    return rows


def sizes(values: Sequence[int], dataset: Dataset, defense: Defense) -> list[Method]:
    """PGD training on the first so many images."""
    rows = []
    for count in values:
        checks.at_least("size", count, 1)
        rows.append(Method(f"images {count}", defense, dataset=split_off(dataset, count)[0]))
    return rows


def reflected(rows: Sequence[Method], settings: Recipe) -> list[Method]:
    """The rows with the thesis's crops, which reflect the image, where the recipe crops at all."""
    if not settings.augment:
        return list(rows)
    return [
        dataclasses.replace(
            row,
            changes={**row.changes, "augment": False},
            augment=training.compose(REFLECT, row.augment) if row.augment else REFLECT,
        )
        for row in rows
    ]
