"""The numbers of the timed attacks, and the attacks of this library that they make."""

from __future__ import annotations

import dataclasses

from jaxrobust import attacks
from jaxrobust.threats import L2, Linf
from jaxrobust.types import Attack, ThreatModel

ATTACKS = ("pgd", "apgd", "apgdt", "ddn", "cw", "fab", "square", "autoattack")
PARTS = {"apgd": "APGD-CE", "apgdt": "APGD-T", "fab": "FAB-T", "square": "Square"}
"""Attacks that are parts of AutoAttack, by their names there."""
MINIMUM_NORM = ("ddn", "cw")
"""Attacks that search the least perturbation; the radius only says which of them count."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Numbers that every side of a benchmark uses."""

    epsilon: float | None = None
    """Radius of the linf ball (default: that of the data set's recipe)."""
    epsilon_l2: float = 1.0
    """Radius at which a least l2 perturbation counts."""
    pgd_steps: int = 40
    step_size: float = 0.01
    """Step size of PGD."""
    steps: int = 100
    """Steps of APGD, DDN, FAB and the parts of AutoAttack."""
    searches: int = 5
    """Constants that C&W tries."""
    cw_steps: int = 200
    """Steps for each constant."""
    cw_step_size: float = 0.1
    """Adam's; a shorter one does not carry a black or white pixel across the flat of tanh."""
    cw_first: float = 1.0
    """C&W's first constant."""
    queries: int = 5000
    """Queries of Square."""


def title(name: str, settings: Settings) -> str:
    """The attack's name with its length."""
    return {
        "pgd": f"PGD-{settings.pgd_steps}",
        "apgd": f"APGD-CE ({settings.steps})",
        "apgdt": f"APGD-T ({settings.steps})",
        "ddn": f"DDN ({settings.steps})",
        "cw": f"C&W l2 ({settings.searches} x {settings.cw_steps})",
        "fab": f"FAB-T ({settings.steps})",
        "square": f"Square ({settings.queries})",
        "autoattack": "AutoAttack",
    }[name]


def judged(name: str, settings: Settings) -> ThreatModel:
    """The set inside of which a point of the attack counts."""
    return L2(settings.epsilon_l2) if name in MINIMUM_NORM else Linf(settings.epsilon)


def ours(name: str, settings: Settings) -> dict[str, Attack]:
    """This library's attack, or its parts in their order."""
    linf, l2 = Linf(settings.epsilon), L2(settings.epsilon_l2)
    suite = attacks.autoattack(linf, steps=settings.steps, queries=settings.queries)
    if name == "autoattack":
        return suite
    if name in PARTS:
        return {name: suite[PARTS[name]]}
    make = {
        "pgd": lambda: attacks.pgd(linf, step_size=settings.step_size, steps=settings.pgd_steps),
        "ddn": lambda: attacks.ddn(l2, steps=settings.steps),
        "cw": lambda: attacks.carlini_wagner(
            l2,
            steps=settings.cw_steps,
            searches=settings.searches,
            step_size=settings.cw_step_size,
            first=settings.cw_first,
        ),
    }
    return {name: make[name]()}
