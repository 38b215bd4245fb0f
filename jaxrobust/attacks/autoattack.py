"""AutoAttack: the standard suites, as ordered dictionaries of attacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from jaxrobust import checks, losses
from jaxrobust.attacks.apgd import apgd
from jaxrobust.attacks.apgd_l1 import apgd_l1
from jaxrobust.attacks.expectation import expectation
from jaxrobust.attacks.fab import fab
from jaxrobust.attacks.square import square
from jaxrobust.attacks.wrappers import restarts, targeted
from jaxrobust.threats import L1, L2, Linf
from jaxrobust.types import Attack

VERSIONS = ("standard", "plus", "rand")

SCHEDULE = 10_000
"""Queries for which Square's windows are meant; the released suite does not rescale them to its
own number."""


def autoattack(
    threat: Linf | L2 | L1,
    *,
    version: str = "standard",
    steps: int = 100,
    queries: int = 5000,
    draws: int = 20,
    chunk: int | None = None,
) -> dict[str, Attack]:
    """AutoAttack: an ensemble of attacks of which none has a setting to tune.

    Standard: APGD-CE, APGD-T and FAB-T at the 9 likeliest wrong classes, Square. Plus: APGD-CE and
    APGD-DLR with 5 restarts, FAB with 5 restarts, Square, APGD-T, FAB-T. On an L1 threat (both
    versions) APGD-CE has 5 restarts and APGD-T 5 targets, on enlarged radii first. Rand, for
    defenses that are random at prediction time: APGD-CE and APGD-DLR on expected predictions, see
    `expectation`. Croce & Hein 2020 (arXiv:2003.01690); l1: Croce & Hein 2021, "Mind the box".

    Run them with `evaluation.evaluate(..., survivors=True)`: each attack then sees only the
    examples that those before it left, and the last robust accuracy is AutoAttack's. With fewer
    than 4 classes the margin stands in for the targeted DLR, with 2 for the DLR; `targets` are at
    most K - 1.

    Args:
      threat: `Linf`, `L2` or `L1`.
      version: "standard", "plus" or "rand".
      steps: the number of steps of APGD and FAB.
      queries: the number of queries of Square. Fewer than the defaults is not AutoAttack.
      draws: the number of predictions that "rand" averages at each point.
      chunk: how many targets or restarts run side by side (default all); memory only.

    Returns:
      The attacks by name, in the order in which they are to run.

    Raises:
      ValueError: an unknown version.
      TypeError: another threat.

    Example:
      >>> from jaxrobust import attacks, threats
      >>> list(attacks.autoattack(threats.Linf(8 / 255)))
      ['APGD-CE', 'APGD-T', 'FAB-T', 'Square']
    """
    checks.choice("version", version, VERSIONS)
    ascent = cast(Callable[..., Attack], apgd_l1 if isinstance(threat, L1) else apgd)
    if version == "rand":
        return {
            "APGD-CE": expectation(ascent(threat, steps=steps), draws),
            "APGD-DLR": expectation(ascent(threat, steps=steps, loss=losses.dlr_or_margin), draws),
        }
    blind = square(threat, queries=queries, schedule=SCHEDULE)
    by_target = {"loss": losses.targeted_dlr_or_margin, "chunk": chunk}
    if isinstance(threat, L1):
        return {
            "APGD-CE": restarts(apgd_l1(threat, steps=steps), 5, chunk=chunk),
            "APGD-T": targeted(apgd_l1(threat, steps=steps), targets=5, **by_target),
            "FAB-T": fab(threat, steps=steps, chunk=chunk),
            "Square": blind,
        }
    aimed = {
        "APGD-T": targeted(apgd(threat, steps=steps), targets=9, **by_target),
        "FAB-T": fab(threat, steps=steps, chunk=chunk),
    }
    last = {"Square": blind}
    if version == "standard":
        return {"APGD-CE": apgd(threat, steps=steps), **aimed, **last}
    dlr = apgd(threat, steps=steps, loss=losses.dlr_or_margin)
    return {
        "APGD-CE": restarts(apgd(threat, steps=steps), 5, chunk=chunk),
        "APGD-DLR": restarts(dlr, 5, chunk=chunk),
        "FAB": fab(threat, steps=steps, targets=None, restarts=5, chunk=chunk),
        **last,
        **aimed,
    }
