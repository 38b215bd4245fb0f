"""Robust accuracy against the radius of the threat."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from jaxrobust import checks
from jaxrobust.devices import Device
from jaxrobust.evaluation.batched_pass import (
    AttackLike,
    Examples,
    clean_pass,
    in_turn,
    prepare,
    progress_bars,
)
from jaxrobust.evaluation.report import Report, standard_error
from jaxrobust.evaluation.resume import guarded, journaled_pass, open_journal
from jaxrobust.files import PathLike
from jaxrobust.models import ModelLike
from jaxrobust.threats.covering import covering_is_meant, warn_of_covering
from jaxrobust.types import Attack, Key, PyTree


@dataclasses.dataclass(frozen=True, eq=False)
class Curve:
    """Robust accuracy at each radius, example by example."""

    radii: np.ndarray
    """float64 `[R]`, increasing."""
    clean: np.ndarray
    """bool `[N]`: classified correctly."""
    robust: np.ndarray
    """bool `[R, N]`: correct, and the attack found nothing at this radius or a smaller one."""

    @property
    def accuracies(self) -> np.ndarray:
        """Robust accuracy in % at each radius, `[R]`; never rises."""
        return 100.0 * self.robust.mean(axis=1)

    @property
    def standard_errors(self) -> np.ndarray:
        """Binomial standard errors of `accuracies`, in percentage points, `[R]`."""
        return np.asarray([standard_error(row) for row in self.robust])


def curve(
    key: Key,
    model: ModelLike,
    variables: PyTree,
    examples: Examples,
    attack: Attack | Callable[[float], AttackLike],
    radii: Sequence[float],
    *,
    batch_size: int,
    devices: Sequence[Device] | None = None,
    progress: bool = True,
    num_classes: int | None = None,
    folder: PathLike | None = None,
) -> Curve:
    """Attacks every example at every radius, with one compiled program for all radii.

    Balls of one norm are nested, so an example broken at one radius counts as broken at every
    larger one: an adversary may use the smaller perturbation. Every radius sees the same random
    numbers.

    Args:
      attack: a function radius -> attack, for example `lambda r: pgd(Linf(r), step_size=r / 4,
        steps=10)`; or an `Attack` with a `threat` setting, whose radius is replaced while its step
        size stays.
      radii: `[R]`, strictly increasing, at least 0, in the units of the threat's radius.
      key, model, variables, examples, batch_size, devices, progress, num_classes, folder: see
        `evaluate`.

    Returns:
      A `Curve`: `radii`, float64 `[R]`; `clean`, bool `[N]`, what is classified correctly; and
      `robust`, bool `[R, N]`, what is robust at each radius. Its `accuracies` `[R]` are in %.

    Raises:
      ValueError: radii empty, negative or not increasing, an attack without a `threat`, or what
        `evaluate` raises.
    """
    grid = _checked(radii)
    at_radius = _with_radius(attack) if isinstance(attack, Attack) else attack
    named = {f"radius {radius!r}": (key, at_radius(radius)) for radius in grid.tolist()}
    # A curve may well end where nothing is left: only one that starts there is a mistake.
    least = next((made for r, (_, made) in zip(grid, named.values(), strict=True) if r > 0), None)
    warn_of_covering(getattr(least, "threats", ()), np.shape(examples[0])[1:])
    with covering_is_meant():
        job = prepare(
            model,
            variables,
            examples,
            batch_size=batch_size,
            devices=devices,
            num_classes=num_classes,
            attacks=[made for _, made in named.values()],
        )
    robust = []
    with guarded(folder, job) as check, progress_bars(progress, len(job.rows)) as bar:
        journal = None if folder is None else open_journal(folder, job, named, None)
        clean, _ = clean_pass(job, in_turn(bar("clean"), check))
        for radius, (name, (_, made)) in zip(grid, named.items(), strict=True):
            result, _ = journaled_pass(
                journal,
                name,
                job,
                key,
                made,
                keep_examples=False,
                tick=bar(f"radius {radius:.4g}"),
                check=check,
            )
            robust.append(clean & ~result.success)
    return Curve(grid, clean, np.logical_and.accumulate(robust))


def curve_of_norms(report: Report, name: str, radii: Sequence[float]) -> Curve:
    """The robust accuracy at every radius, from one run of a minimum-norm attack.

    An example is broken at radius r where the attack's point fools the model (its margin is not
    negative) and lies at most r away. The point's own distance decides, not the radius the attack
    was run with, which only must not be 0. Points must lie in the pixel box, as those of
    `attacks.fab`, `deepfool`, `ddn`, `carlini_wagner` and the other minimum-norm attacks do. For an
    attack that makes no point smaller than it must, such as PGD, the curve is true but loose.

    Args:
      report: what `evaluate` returned, with the attack run on all examples.
      name: the name of the attack in the report.
      radii: `[R]`, as in `curve`.

    Returns:
      A `Curve` with the same fields and shapes as that of `curve`.

    Raises:
      ValueError: radii that make no curve, an attack that the report does not hold, or norms that
        are NaN: with `survivors=True` an attack never sees what those before it broke.
    """
    grid = _checked(radii)
    checks.choice("attack", name, report.attacks)
    attack = report.attacks[name]
    if np.isnan(attack.norm).any():
        raise ValueError(
            f"{name!r} has no norm for {int(np.isnan(attack.norm).sum())} of {report.count} "
            "examples, which an attack before it had broken; evaluate it with survivors=False"
        )
    fooled = ~(attack.margin < 0)
    robust = report.clean & ~(fooled & (attack.norm <= grid[:, None]))
    return Curve(grid, report.clean, robust)


def _checked(radii: Sequence[float]) -> np.ndarray:
    grid = np.asarray(radii, np.float64)
    increasing = grid.ndim == 1 and grid.size and grid[0] >= 0 and (np.diff(grid) > 0).all()
    if not (increasing and np.isfinite(grid).all()):
        raise ValueError(f"radii must be finite, at least 0 and strictly increasing, got {grid}")
    return grid


def _with_radius(attack: Attack) -> Callable[[float], Attack]:
    threat = attack.settings.get("threat")
    if threat is None:
        raise ValueError(
            "this attack has no `threat` setting to take the radius; "
            "give a function instead: lambda radius: ..."
        )
    return lambda radius: attack.replace(threat=dataclasses.replace(threat, radius=radius))
