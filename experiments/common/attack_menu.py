"""Attacks by name, for command lines: a threat and a budget make them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

from jaxrobust import attacks, checks
from jaxrobust.threats import L1, L2, Linf
from jaxrobust.types import Attack

Ball = Linf | L2 | L1

NORMS: Mapping[str, type[Ball]] = {"linf": Linf, "l2": L2, "l1": L1}


@dataclasses.dataclass(frozen=True)
class Budget:
    """What an attack may spend; None leaves it what its paper recommends."""

    steps: int | None = None
    """Steps of all attacks that take steps, but AutoAttack's suites, which have no setting."""
    step_size: float | None = None
    """Step size of pgd, pgd-restarts, cw-pgd, multi-targeted (default 2.5 eps / steps) and beta
    (eps / 4), in the threat's norm."""
    restarts: int = 10
    """Restarts of pgd-restarts."""
    queries: int | None = None
    """Queries of square."""
    chunk: int | None = None
    """Target classes or restarts side by side: fewer take less memory."""

    def given(self, *names: str) -> dict[str, Any]:
        """Those of the settings `names` that are not None."""
        return {n: getattr(self, n) for n in names if getattr(self, n) is not None}

    def stepped(self, threat: Ball, steps: int) -> dict[str, Any]:
        """`steps` and `step_size` of ascent; the latter is 2.5 eps / steps by default (Madry)."""
        steps = steps if self.steps is None else self.steps
        checks.at_least("steps", steps, 1)
        size = 2.5 * threat.radius / steps if self.step_size is None else self.step_size
        return {"steps": steps, "step_size": size}


class Item(NamedTuple):
    """An attack of the menu."""

    make: Callable[[Ball, Budget], Attack | dict[str, Attack]]
    norms: tuple[str, ...] = tuple(NORMS)
    """Norms for which it is defined."""
    least_norm: bool = False
    """It seeks the smallest perturbation, so that one run gives a whole robustness curve."""


def _beta(threat: Ball, budget: Budget) -> Attack:
    # The paper's 2/255 at its radius of 8/255.
    size = threat.radius / 4 if budget.step_size is None else budget.step_size
    return attacks.beta(threat, step_size=size, **budget.given("steps", "chunk"))


def _apgd_ce(threat: Ball, budget: Budget) -> Attack:
    make = attacks.apgd_l1 if isinstance(threat, L1) else attacks.apgd
    return make(threat, **budget.given("steps"))


def _pgd(threat: Ball, budget: Budget) -> Attack:
    return attacks.pgd(threat, **budget.stepped(threat, 50))


def _pgd_restarts(threat: Ball, budget: Budget) -> Attack:
    return attacks.restarts(_pgd(threat, budget), budget.restarts, **budget.given("chunk"))


def _apgd_t(threat: Ball, budget: Budget) -> Attack:
    # AutoAttack knows how many targets and which loss belong to each norm.
    return attacks.autoattack(threat, **budget.given("steps", "chunk"))["APGD-T"]


def _multi_targeted(threat: Ball, budget: Budget) -> Attack:
    return attacks.multi_targeted(threat, **budget.stepped(threat, 20), **budget.given("chunk"))


def _plain(make: Callable[..., Attack], *names: str) -> Callable[[Ball, Budget], Attack]:
    """An attack that takes the settings `names` of the budget and has defaults for them."""
    return lambda threat, budget: make(threat, **budget.given(*names))


MENU: Mapping[str, Item] = {
    "fgsm": Item(_plain(attacks.fgsm)),
    "pgd": Item(_pgd),
    "pgd-restarts": Item(_pgd_restarts),
    "cw-pgd": Item(lambda t, b: attacks.carlini_wagner_pgd(t, **b.stepped(t, 30))),
    "multi-targeted": Item(_multi_targeted),
    "beta": Item(_beta),
    "frank-wolfe": Item(_plain(attacks.frank_wolfe, "steps")),
    "apgd-ce": Item(_apgd_ce),
    "apgd-t": Item(_apgd_t),
    "fab-t": Item(_plain(attacks.fab, "steps", "chunk"), least_norm=True),
    "square": Item(_plain(attacks.square, "queries")),
    "autoattack": Item(lambda t, b: attacks.autoattack(t, **b.given("chunk"))),
    "autoattack-plus": Item(lambda t, b: attacks.autoattack(t, version="plus", **b.given("chunk"))),
    "deepfool": Item(_plain(attacks.deepfool, "steps"), least_norm=True),
    "ddn": Item(_plain(attacks.ddn, "steps"), ("l2",), least_norm=True),
    "cw": Item(_plain(attacks.carlini_wagner, "steps"), ("l2",), least_norm=True),
    "cw-linf": Item(_plain(attacks.carlini_wagner_linf, "steps"), ("linf",), least_norm=True),
    "ead": Item(_plain(attacks.elastic_net, "steps"), ("l1",), least_norm=True),
    "boundary": Item(_plain(attacks.boundary, "steps"), ("l2",), least_norm=True),
    "pointwise": Item(_plain(attacks.pointwise), least_norm=True),
    "noise": Item(_plain(attacks.gaussian_noise)),
    "uniform-noise": Item(_plain(attacks.uniform_noise)),
    "salt-and-pepper": Item(_plain(attacks.salt_and_pepper)),
}
"""Every attack by its name on the command line."""


def number(text: str, name: str = "eps") -> float:
    """The number that "0.3" or "8/255" stands for.

    Raises:
      ValueError: neither a number nor a fraction; `name` says whose value it is.
    """
    try:
        value = float(Fraction(text.strip()))
    except (ValueError, ZeroDivisionError, OverflowError):
        raise ValueError(f"{name} must be a number such as 0.3 or 8/255, got {text!r}") from None
    checks.nonnegative(name, value)
    return value


def listed(texts: Sequence[str]) -> list[str]:
    """The entries of a list given with commas, spaces or both."""
    return [part for text in texts for part in text.replace(",", " ").split()]


def make_threat(norm: str, radius: float) -> Ball:
    """The ball of `norm` ("linf", "l2" or "l1") with images in [0, 1]."""
    checks.choice("threat", norm, NORMS)
    return NORMS[norm](radius)


def menu_item(name: str, norm: str) -> Item:
    """The attack called `name`, if it is defined for the norm.

    Raises:
      ValueError: an unknown name or norm, or an attack of other norms.
    """
    checks.choice("threat", norm, NORMS)
    checks.choice("attack", name, MENU)
    item = MENU[name]
    if norm not in item.norms:
        fitting = ", ".join(sorted(n for n, other in MENU.items() if norm in other.norms))
        raise ValueError(
            f"attack {name!r} is defined for {', '.join(item.norms)} only; for {norm} there are: "
            f"{fitting}"
        )
    return item


def make_attacks(
    names: Sequence[str], norm: str, radius: float, budget: Budget
) -> dict[str, Attack]:
    """The attacks of that list by name, in order; a suite adds its members under their names.

    Raises:
      ValueError: what `menu_item` raises, a name given twice, or an impossible budget.
    """
    if len(set(names)) < len(names):
        raise ValueError(f"attacks holds a name twice: {' '.join(names)}")
    threat = make_threat(norm, radius)
    suite: dict[str, Attack] = {}
    for name in names:
        made = menu_item(name, norm).make(threat, budget)
        members = {name: made} if isinstance(made, Attack) else made
        repeated = sorted(members.keys() & suite.keys())
        if repeated:
            raise ValueError(f"{name} holds {', '.join(repeated)}, which another suite does too")
        suite |= members
    return suite
