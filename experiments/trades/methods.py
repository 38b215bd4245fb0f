"""Rows and columns of TRADES' tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from jaxrobust import attacks, checks, defenses, losses
from jaxrobust.threats import L2
from jaxrobust.types import Array, Attack, AttackResult, Key, LogitsFn, ThreatModel

from ..common.defense_menu import mode, stepped
from ..common.options import distinct
from ..common.recipes import Recipe
from ..common.rows import Method


def trades_row(settings: Recipe, weight: float) -> Method:
    """TRADES with 1 / lambda = `weight`.

    Raises:
      ValueError: a weight that is not above 0.
    """
    checks.positive("1 / lambda", weight)
    attack = defenses.trades_attack(settings.threat, **stepped(settings))
    defense = defenses.trades(attack, beta=weight, **mode(settings))
    return Method(f"trades 1/lambda={weight:g}", defense)


def binary_row(settings: Recipe, lam: float) -> Method:
    """Binary TRADES with the hinge loss (eq. 3).

    Raises:
      ValueError: lambda is not above 0.
    """
    checks.positive("lambda", lam)
    attack = defenses.trades_attack(settings.threat, **stepped(settings))
    return Method(f"lambda={lam:g}", defenses.binary_trades(attack, lam=lam, **mode(settings)))


def iterated(settings: Recipe, steps: int) -> Attack:
    """The paper's FGSM^k: PGD that starts at the image itself."""
    return attacks.pgd(
        settings.threat, step_size=settings.eval_step_size, steps=steps, start=attacks.clean
    )


def _sized(settings: Recipe) -> dict[str, float]:
    return {"step_size": settings.eval_step_size, "steps": settings.eval_steps}


class JudgedIn(Attack):
    """An attack that seeks in a set of its own, and succeeds where its point lies in `threat`."""

    threat: ThreatModel
    attack: Attack

    def __call__(self, key: Key, f: LogitsFn, x: Array, y: Array) -> AttackResult:
        found = self.attack(key, f, x, y)
        costs = {"forwards": found.forwards, "backwards": found.backwards}
        return attacks.judge(f, self.threat, x, y, found.x, losses.margin, **costs)


def _deepfool_l2(settings: Recipe) -> Attack:
    # Its search ends at the nearest misclassified point, whatever the radius of the set.
    return JudgedIn(threat=settings.threat, attack=attacks.deepfool(L2(1.0)))


WHITE_BOX: Mapping[str, tuple[str, Callable[[Recipe], Attack]]] = {
    "fgsm": ("FGSM", lambda r: attacks.fgsm(r.threat)),
    "pgd": ("FGSM^k", lambda r: iterated(r, r.eval_steps)),
    "mi-fgsm": ("MI-FGSM", lambda r: attacks.momentum(r.threat, **_sized(r))),
    "deepfool": ("DeepFool", lambda r: attacks.deepfool(r.threat)),
    "deepfool-l2": ("DeepFool l2", _deepfool_l2),
    "lbfgs": ("L-BFGS", lambda r: attacks.lbfgs(r.threat)),
    "cw": ("C&W", lambda r: attacks.carlini_wagner_pgd(r.threat, **_sized(r))),
}
"""Column and attack by the name on the command line, in the order of the published figures."""

FAST = tuple(name for name in WHITE_BOX if name != "lbfgs")
"""L-BFGS' line search compiles longer than all the others together."""


def white_box(
    names: tuple[str, ...], settings: Recipe, *, more_steps: int | None
) -> dict[str, Attack]:
    """The columns of the white-box table: `names`, and FGSM^k with `more_steps` where given.

    Raises:
      ValueError: a name given twice or not known, or fewer steps than the table's.
    """
    distinct("attacks", names)
    for name in names:
        checks.choice("attack", name, WHITE_BOX)
    made = {}
    for name in names:
        column, make = WHITE_BOX[name]
        made[column.replace("^k", str(settings.eval_steps))] = make(settings)
    if more_steps is not None:
        checks.at_least("more_steps", more_steps, settings.eval_steps + 1)
        made[f"FGSM{more_steps}"] = iterated(settings, more_steps)
    return made
