"""The checks by which a careful reviewer tells robustness from attacks that failed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import jax.numpy as jnp
import numpy as np
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jaxrobust import attacks, losses
from jaxrobust import checks as require
from jaxrobust.devices import Device
from jaxrobust.evaluation.audit import MASKED, UNEXPLAINED, Flag, attack_flags, audit
from jaxrobust.evaluation.batched_pass import Examples
from jaxrobust.evaluation.evaluate import evaluate
from jaxrobust.evaluation.report import Report, accuracy, show
from jaxrobust.files import PathLike
from jaxrobust.models import ModelLike
from jaxrobust.threats import L1, L2, Linf
from jaxrobust.threats.covering import covering_is_meant, warn_of_covering
from jaxrobust.types import Attack, Key, PyTree

Ball = Linf | L2 | L1

RISING = 0.95
"""Share of examples whose margin must be higher after the attack than before."""

FGSM, PGD, SHORT, RESTARTS = "FGSM", "PGD", "PGD, a quarter of the steps", "PGD, restarts"
CLIMB, NOISE, SQUARE = "PGD on the margin, last iterate", "uniform noise", "Square"

_VERDICTS = {True: "passed", False: "FAILED", None: "-"}


@dataclasses.dataclass(frozen=True)
class Check:
    """One check: its outcome (None: no verdict) and what was seen."""

    name: str
    passed: bool | None
    detail: str


@dataclasses.dataclass(frozen=True, eq=False)
class Sanity:
    """The outcome of `sanity`."""

    checks: tuple[Check, ...]
    report: Report | None
    """The attacks at the threat's radius; None where the model has no gradient to attack by."""

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return all(check.passed is not False for check in self.checks)

    def table(self) -> Table:
        """The checks as a Rich table."""
        table = Table(box=box.SIMPLE_HEAD)
        for title in ("Check", "Verdict", "Seen"):
            table.add_column(title)
        for row in self._rows():
            table.add_row(*(escape(cell) for cell in row))
        return table

    def print(self, console: Console | None = None) -> None:
        """Shows `table()` on the terminal."""
        show(self.table(), console)

    def to_markdown(self) -> str:
        """The checks as a Markdown table."""
        rows = [("Check", "Verdict", "Seen"), ("---",) * 3, *self._rows()]
        lines = ("| " + " | ".join(c.replace("|", "\\|") for c in row) + " |" for row in rows)
        return "\n".join(lines) + "\n"

    def _rows(self) -> list[tuple[str, str, str]]:
        return [(check.name, _VERDICTS[check.passed], check.detail) for check in self.checks]


def sanity(
    key: Key,
    model: ModelLike,
    variables: PyTree,
    examples: Examples,
    threat: Ball,
    *,
    batch_size: int,
    steps: int = 40,
    restarts: int = 3,
    queries: int = 200,
    devices: Sequence[Device] | None = None,
    progress: bool = True,
    folder: PathLike | None = None,
) -> Sanity:
    """Runs the checks of a careful reviewer on a model and a ball, and `audit` before them.

    At the threat's radius: PGD is at least as strong as FGSM, as PGD of a quarter of its steps, as
    one of its own restarts and as noise; attacks without gradients take at most
    `audit.UNEXPLAINED` points from those with them; the margin rises along an attack. Over radii,
    each attacked anew: none changes nothing; a larger one is at least as strong; one that
    reaches mid-gray from everywhere leaves at most the share of the commonest label, as all
    examples share that point; one that covers the box breaks everything. Athalye et al. 2018
    (arXiv:1802.00420), section 3.1; Carlini et al. 2019 (arXiv:1902.06705), section 5.

    Attacks are random: "at least as strong" may be missed by two standard errors of the paired
    comparison, 2 sqrt(n) where n examples fall to one of the two only. The margin must rise on the
    share `RISING` of the examples; the other checks allow nothing beyond what they state. A
    failure is a reason to look closer, not a proof, and passing proves nothing: stronger attacks
    (`attacks.autoattack`) go on from there.

    PGD takes steps of 2.5 radius / steps up `losses.error_log_odds`, in whose direction
    cross-entropy rises as well, and which no confidence flattens. One program serves all radii.

    Args:
      key, model, variables, batch_size, devices, progress, folder: see `evaluate`.
      examples: (x, y), a few hundred examples; see `evaluate`.
      threat: a ball of one positive radius, in a finite box.
      steps: the number of steps of PGD.
      restarts: the number of restarts of PGD.
      queries: the number of queries of Square, which is left out for inputs of more than 3
        dimensions. The cost per example is about steps * (restarts + 8) gradients and
        queries + 20 predictions.

    Returns:
      A `Sanity`: the flags of `audit` and `attack_flags` (a warning counts as failed, a note has no
      verdict) and the checks, each passed or failed and with what was seen; and the `Report` of the
      attacks at the threat's radius. Where the model has no gradient there are the flags of `audit`
      alone, and the report is None.

    Raises:
      TypeError: another threat.
      ValueError: a stack of sets, a radius of 0, an infinite box, steps below 4, restarts below 2,
        queries below 1, or what `evaluate` raises.
    """
    require.at_least("steps", steps, 4)
    require.at_least("restarts", restarts, 2)
    covering = _covering(threat, np.shape(examples[0])[1:])
    setting = {"batch_size": batch_size, "devices": devices}
    flags = audit(model, variables, examples, key=key, **setting)
    if any(flag.name == "no gradient" for flag in flags):
        return Sanity(tuple(map(_row, flags)), None)

    base = _base_attacks(threat, np.ndim(examples[0]) - 1, steps, restarts, queries)
    radius = float(threat.radius)
    others = sorted({0.0, radius / 2, 2 * radius, covering / 2, covering} - {radius})
    suite = {**base, **{_name(r): _pgd(threat, steps, radius=r) for r in others}}
    warn_of_covering([threat], np.shape(examples[0])[1:])
    with covering_is_meant():
        whole = evaluate(
            key, model, variables, examples, suite, progress=progress, folder=folder, **setting
        )
    report = dataclasses.replace(whole, attacks={name: whole.attacks[name] for name in base})
    found = attack_flags(report)
    masked = [flag.message for flag in found if flag.name == MASKED]
    bound = f"attacks without gradients take at most {UNEXPLAINED} points more"
    rows = (
        *map(_row, flags),
        *(_row(flag) for flag in found if flag.name != MASKED),
        _compared(report, "iterative at least as strong as single-step", PGD, FGSM),
        _compared(report, "more steps at least as strong", PGD, SHORT),
        _compared(report, "more restarts at least as strong", RESTARTS, PGD),
        _compared(report, "gradients at least as strong as noise", PGD, NOISE),
        Check("gradients find what blind search finds", not masked, "; ".join(masked) or bound),
        _rising(whole),
        *_over_radii(whole, {**{r: _name(r) for r in others}, radius: PGD}, covering, examples[1]),
    )
    return Sanity(rows, report)


def _covering(threat: Ball, shape: tuple[int, ...]) -> float:
    """The radius at which the ball around any example covers the box; checks the threat."""
    if not isinstance(threat, Linf | L2 | L1):
        raise TypeError(f"sanity needs a Linf, L2 or L1 threat, got {type(threat).__name__}")
    if np.ndim(threat.radius):
        raise ValueError(f"sanity takes one radius, got a stack of shape {np.shape(threat.radius)}")
    require.positive("radius", threat.radius)
    black, white = (jnp.full(shape, float(b), jnp.float32) for b in (threat.lower, threat.upper))
    size = float(threat.size(black, white))
    require.positive("the size of the box from threat.lower to threat.upper", size)
    return size


def _name(radius: float) -> str:
    return f"PGD at {radius:.4g}"


def _pgd(threat: Ball, steps: int, *, radius: float | None = None, **options: Any) -> Attack:
    """PGD that crosses the ball 1.25 times, on the threat or on it with another radius."""
    threat = threat if radius is None else dataclasses.replace(threat, radius=radius)
    options = {"loss": losses.error_log_odds, **options}
    return attacks.pgd(threat, step_size=2.5 * threat.radius / steps, steps=steps, **options)


def _base_attacks(
    threat: Ball, ndim: int, steps: int, restarts: int, queries: int
) -> dict[str, Attack]:
    """The attacks at the threat's own radius, by the names that the checks know."""
    pgd = _pgd(threat, steps)
    climb = _pgd(threat, steps, loss=losses.margin, start=attacks.clean, keep="last")
    blind = {SQUARE: attacks.square(threat, queries=queries)} if ndim <= 3 else {}
    return {
        FGSM: attacks.fgsm(threat, loss=losses.error_log_odds),
        SHORT: _pgd(threat, steps // 4),
        PGD: pgd,
        RESTARTS: attacks.restarts(pgd, restarts),
        CLIMB: climb,
        NOISE: attacks.uniform_noise(threat, levels=2),
        **blind,
    }


def _row(flag: Flag) -> Check:
    return Check(flag.name, False if flag.severity == "warning" else None, flag.message)


def _compared(report: Report, name: str, stronger: str, weaker: str) -> Check:
    """Whether `stronger` breaks as many examples as `weaker`, up to what chance may explain."""
    a, b = (report.attacks[n].robust for n in (stronger, weaker))
    missed, won = int((a & ~b).sum()), int((b & ~a).sum())
    seen = f"{stronger} leaves {accuracy(a):.2f} %, {weaker} {accuracy(b):.2f} %"
    detail = f"{seen}; {missed} examples fall to the latter only, {won} to the former only"
    return Check(name, bool(missed - won <= 2 * (missed + won) ** 0.5), detail)


def _rising(report: Report) -> Check:
    before, after = (report.attacks[n].margin for n in (_name(0.0), CLIMB))
    share = float(np.mean(after > before))
    detail = f"on {100 * share:.1f} % of the examples, from the clean point to the last iterate"
    return Check("the margin rises along the attack", share >= RISING, detail)


def _over_radii(
    report: Report, names: Mapping[float, str], covering: float, y: np.ndarray
) -> Iterator[Check]:
    """The checks that look at several radii; `names` holds the attack at each of them."""
    robust = {radius: report.attacks[names[radius]].robust for radius in sorted(names)}
    changed = int((robust[0.0] != report.clean).sum())
    detail = f"{changed} predictions differ from those on the clean examples"
    yield Check("radius 0 changes nothing", changed == 0, detail)

    steps = [_compared(report, "", names[b], names[a]) for a, b in pairwise(robust)]
    seen = ", ".join(f"{radius:.4g}: {accuracy(mask):.2f} %" for radius, mask in robust.items())
    yield Check("larger radii at least as strong", all(c.passed for c in steps), seen)

    chance = 100.0 * np.bincount(np.asarray(y)).max() / len(y)
    left = accuracy(robust[covering / 2])
    detail = f"{left:.2f} % left at {covering / 2:.4g}, the commonest label has {chance:.2f} %"
    yield Check("mid-gray in reach leaves at most chance", left <= chance, detail)

    left = accuracy(robust[covering])
    detail = f"{left:.2f} % left at {covering:.4g}, which covers the box"
    yield Check("an unbounded attack breaks everything", left == 0, detail)
