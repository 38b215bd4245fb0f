"""The tables of the Wasserstein study."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from jaxrobust.data import Dataset

from .measure import Broken, Run, broken, clean_accuracy
from .subjects import Subject


def table(run: Run, results: Sequence[Broken]) -> list[dict[str, Any]]:
    """Table 5.1 and the accuracies of Figure 5.4 or 5.5, a row per model."""
    rows = []
    for result in results:
        name, known = result.subject.name, run.setting.published
        row = {"method": name, "Clean": clean_accuracy(run, result.subject)}
        row |= result.accuracies(run.setting.radii)
        if known:
            told = ["?" if v is None else f"{v:g}" for v in known.get(name, ())]
            row["published"] = "/".join(told)
        rows.append(row)
    return rows


def costly_rows(results: Sequence[Broken], radii: Sequence[float]) -> list[dict[str, Any]]:
    """Accuracies as the released code counts: a point is as far away as its plan is dear."""
    return [{"method": f"{b.subject.name} {b.plans.name}", **b.costly(radii)} for b in results]


def sweep(
    run: Run, subject: Subject, lams: Sequence[float], powers: Sequence[float]
) -> list[Broken]:
    """The subject under the attack at every power and every lam; the setting's where none."""
    plain = run.setting.plans
    return [
        broken(run, subject, dataclasses.replace(plain, lam=lam, p=p))
        for p in powers or (plain.p,)
        for lam in lams or (plain.lam,)
    ]


def by_size(run: Run, models: Sequence[Subject], sizes: Sequence[int]) -> list[Broken]:
    """Every model under the attack with every window."""
    variants = [dataclasses.replace(run.setting.plans, size=size) for size in sizes]
    return [broken(run, subject, plans) for plans in variants for subject in models]


def named_rows(results: Sequence[Broken], radii: Sequence[float]) -> list[dict[str, Any]]:
    """A row per model and plans. Radii for other powers p are in other units."""
    return [
        {
            "method": f"{b.subject.name} {b.plans.name}",
            **b.accuracies(radii),
            "median radius": b.median,
        }
        for b in results
    ]


def warnings(results: Sequence[Broken]) -> list[str]:
    """A line for each result whose accuracies are too high, because distances are missing."""
    return [
        f"warning: {b.subject.name} {b.plans.name}: {b.unmeasured} images are fooled by points "
        "whose distance could not be measured, and count as robust"
        for b in results
        if b.unmeasured
    ]


def described(run: Run, dataset: Dataset) -> str:
    """What a table shows, for its title."""
    growth = run.setting.test
    return (
        f"{dataset.label}: first {run.setting.limit} test images (Clean: all {dataset.test.size}), "
        f"eps {growth.first:g} * {growth.factor:g} every {growth.every} of {growth.steps} steps "
        f"of {run.setting.step_size:g} linf, {run.setting.plans.name} unless named, "
        f"seed {run.seed}; accuracies in %"
    )
