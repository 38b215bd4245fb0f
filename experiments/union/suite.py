"""The attacks of each ball, and what they say together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxrobust import attacks, checks
from jaxrobust.evaluation import Report, accuracy
from jaxrobust.threats import L1, Union
from jaxrobust.types import Attack

from ..common.attack_menu import Ball, make_threat
from .recipes import NORMS, Setting


def steepest(threat: Ball, *, step_size: float, steps: int, **options: object) -> Attack:
    """PGD; in l1 every step moves a number of coordinates drawn from 5 to 20.

    Wong's thesis, section 5.3.4. MSD of a single ball is that.
    """
    if isinstance(threat, L1):
        return attacks.msd(Union((threat,)), step_sizes=(step_size,), steps=steps, **options)
    return attacks.pgd(threat, step_size=step_size, steps=steps, **options)


def _pgd(threat: Ball, setting: Setting, index: int) -> Attack:
    options = {"step_size": setting.sizes[index], "steps": setting.test_steps[index]}
    attack = steepest(threat, **options, start=attacks.uniform)
    return attacks.restarts(attack, setting.restarts, chunk=1)


def _mim(threat: Ball, setting: Setting, index: int) -> Attack:
    steps = setting.test_steps[index]
    return attacks.momentum(threat, step_size=setting.sizes[index], steps=steps)


def _searching(make: Callable[..., Attack]) -> Callable[[Ball, Setting, int], Attack]:
    return lambda threat, setting, index: make(threat, steps=setting.queries)


def _drawing(make: Callable[[Ball], Attack]) -> Callable[[Ball, Setting, int], Attack]:
    return lambda threat, setting, index: attacks.restarts(make(threat), setting.restarts, chunk=1)


class Item(NamedTuple):
    """An attack of the suite."""

    make: Callable[[Ball, Setting, int], Attack]
    norms: tuple[str, ...] = NORMS
    """Norms of the balls that it is run in."""


ATTACKS: Mapping[str, Item] = {
    "pgd": Item(_pgd),
    "fgsm": Item(lambda threat, setting, index: attacks.fgsm(threat), ("linf",)),
    "mim": Item(_mim, ("linf",)),
    "deepfool": Item(lambda threat, setting, index: attacks.deepfool(threat), ("l2",)),
    "ddn": Item(_searching(attacks.ddn), ("l2",)),
    "cw": Item(_searching(attacks.carlini_wagner), ("l2",)),
    "ead": Item(_searching(attacks.elastic_net), ("l1",)),
    "apgd": Item(_searching(attacks.apgd_l1), ("l1",)),
    "noise": Item(_drawing(attacks.gaussian_noise), ("l2",)),
    "salt-and-pepper": Item(_drawing(attacks.salt_and_pepper), ("l1",)),
    "pointwise": Item(_drawing(attacks.pointwise), ("l2", "l1")),
    "boundary": Item(_searching(attacks.boundary), ("l2",)),
}
"""Tables 5.2 and 5.3's, EAD of Table 5.4, and l1-APGD, which is newer; Foolbox's PGD is PGD."""


def suite(names: Sequence[str], setting: Setting) -> dict[str, Attack]:
    """The attacks of those names in every ball that they are run in, as "linf pgd".

    Raises:
      ValueError: an unknown name, or a ball without any attack.
    """
    for name in names:
        checks.choice("attack", name, ATTACKS)
    made = {}
    for index, norm in enumerate(NORMS):
        threat = make_threat(norm, setting.recipe.radii[index])
        own = [name for name in names if norm in ATTACKS[name].norms]
        if not own:
            raise ValueError(
                f"--attacks {' '.join(names)} has none of the {norm} ball; add pgd, which all have"
            )
        made |= {f"{norm} {name}": ATTACKS[name].make(threat, setting, index) for name in own}
    return made


def worst_cases(report: Report) -> dict[str, float]:
    """Accuracies in %: clean, over all attacks of each ball, over all of all balls, and their mean.

    An example counts for a ball if it is right and none of the ball's attacks broke it. "average"
    is the mean of the three balls'.
    """
    balls = {
        norm: np.logical_and.reduce(
            [a.robust for name, a in report.attacks.items() if name.split()[0] == norm]
        )
        for norm in NORMS
    }
    each = {norm: accuracy(mask) for norm, mask in balls.items()}
    return {
        "Clean": report.clean_accuracy,
        **each,
        "all": accuracy(np.logical_and.reduce(list(balls.values()))),
        "average": float(np.mean(list(each.values()))),
    }
