"""The rows: training in one norm, and in the union of three."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from jaxrobust import attacks, checks, defenses
from jaxrobust.defenses import Defense
from jaxrobust.threats import L1, L2, Linf, Union
from jaxrobust.types import Attack

from ..common.attack_menu import Ball, make_threat
from ..common.defense_menu import mode
from ..common.rows import Method
from .recipes import NORMS, Setting
from .suite import steepest


def training_attacks(setting: Setting) -> dict[str, Attack]:
    """PGD in each ball from the clean image, its last point."""
    balls: dict[str, Ball] = {
        norm: make_threat(norm, radius)
        for norm, radius in zip(NORMS, setting.recipe.radii, strict=True)
    }
    return {
        norm: steepest(ball, step_size=size, steps=steps, start=attacks.clean, keep="last")
        for (norm, ball), size, steps in zip(
            balls.items(), setting.sizes, setting.steps, strict=True
        )
    }


def _single(norm: str) -> Callable[[Setting], Defense]:
    return lambda s: defenses.adversarial(training_attacks(s)[norm], **mode(s.recipe))


def _msd(setting: Setting, start: attacks.Start) -> Defense:
    linf, l2, l1 = setting.msd_radii
    threat = Union((Linf(linf), L2(l2), L1(l1)))
    sizes, steps = setting.msd_sizes, setting.msd_steps
    attack = attacks.msd(threat, step_sizes=sizes, steps=steps, start=start)
    return defenses.msd(attack, **mode(setting.recipe))


ROWS: Mapping[str, Callable[[Setting], Defense]] = {
    "erm": lambda s: defenses.erm(),
    **{norm: _single(norm) for norm in NORMS},
    "worst": lambda s: defenses.worst(*training_attacks(s).values(), **mode(s.recipe)),
    "augmented": lambda s: defenses.augmented(
        tuple(training_attacks(s).values()), **mode(s.recipe)
    ),
    "msd": lambda s: _msd(s, attacks.clean),
    "msd_random": lambda s: _msd(s, attacks.uniform),
}
"""None; each norm's own (P_inf, P_2, P_1 in the thesis); Worst-PGD, PGD-Aug and MSD, from the image
(Algorithm 9) or from a random point of one of the balls, drawn anew for every image."""


def rows_of(names: Sequence[str], setting: Setting) -> list[Method]:
    """The rows of the table.

    Raises:
      ValueError: an unknown name.
    """
    for name in names:
        checks.choice("method", name, ROWS)
    return [Method(name, ROWS[name](setting)) for name in names]
