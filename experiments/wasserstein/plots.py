"""Figures 5.2 to 5.5, 5.7 and 5.8 of Wong's thesis, from results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from jaxrobust import attacks, figures
from jaxrobust.data import Split, to_inputs
from jaxrobust.threats import Linf
from jaxrobust.types import Attack

from ..common.trained import predictions
from .measure import Broken, Run
from .subjects import Subject


def linf_attack(run: Run) -> Attack:
    """PGD whose linf ball grows as the study's Wasserstein ball does."""
    growth, first = run.setting.test, run.setting.linf
    return attacks.growing(
        Linf(first),
        step=Linf(1.0),
        step_size=first / 4,
        steps=growth.steps,
        factor=growth.factor,
        every=growth.every,
    )


def figure_2(run: Run, results: Broken) -> figures.Figure | None:
    """The first image broken: clean, perturbation and perturbed, under Wasserstein and linf.

    None where no image was broken.
    """
    if not results.found.any():
        return None
    index = np.flatnonzero(results.found)[0]
    examples = results.subject.examples
    one = Split(examples.x[index][None], examples.y[index][None])
    subject = results.subject._replace(name=f"{results.subject.name}-linf", examples=one)
    report = run.attack(subject, {"linf": linf_attack(run)}).attacks["linf"]
    clean = _clean(results.subject, index)
    named = {
        "Wasserstein": (results.points[index], results.told(index)),
        "linf": (report.examples[0], _told_linf(subject, report.norm[0], report.examples)),
    }
    pictures = [[clean, figures.magnified(point - clean), point] for point, _ in named.values()]
    label = f"label {examples.y[index]}"
    titles = [[label, "perturbation", told] for _, told in named.values()]
    return figures.picture_grid(pictures, titles=titles, rows=list(named))


def figure_3(results: Sequence[Broken], count: int) -> figures.Figure:
    """Adversarial examples of every model, in rows, below the clean images.

    The images on which the most models are broken come first; where one is not, the attack's last
    point is shown.
    """
    often = np.sum([r.found for r in results], axis=0)
    chosen = np.argsort(-often, kind="stable")[:count]
    examples = results[0].subject.examples
    rows = {"clean": [_clean(results[0].subject, i) for i in chosen]}
    titles = [[f"label {examples.y[i]}" for i in chosen]]
    for result in results:
        rows[result.subject.name] = [result.points[i] for i in chosen]
        titles.append([result.told(i) for i in chosen])
    return figures.picture_grid(list(rows.values()), titles=titles, rows=list(rows))


def figure_4(results: Sequence[Broken]) -> figures.Figure:
    """Accuracy against radius, a line per model; Figure 5.5 is the same for CIFAR-10."""
    return _curves({b.subject.name: b for b in results})


def figure_7(results: Sequence[Broken]) -> figures.Figure:
    """One image's adversarial examples, a row per power p and a column per lam.

    The image is the first that the most variants broke; the others' last points are shown.
    """
    index = int(np.argmax(np.sum([b.found for b in results], axis=0)))
    rows: dict[str, list[Broken]] = {}
    for result in results:
        rows.setdefault(f"p = {result.plans.p:g}", []).append(result)
    pictures = [[b.points[index] for b in row] for row in rows.values()]
    titles = [[f"lam {b.plans.lam:g}\n{b.told(index)}" for b in row] for row in rows.values()]
    return figures.picture_grid(pictures, titles=titles, rows=list(rows))


def figure_8(results: Sequence[Broken]) -> figures.Figure:
    """Accuracy against radius, a line per model and window."""
    return _curves({f"{b.subject.name} {b.plans.size}x{b.plans.size}": b for b in results})


def _curves(results: Mapping[str, Broken]) -> figures.Figure:
    curves = {name: b.curve(b.growth.radii) for name, b in results.items()}
    return figures.robustness_curve(curves, unit="Wasserstein radius")


def _clean(subject: Subject, index: int) -> np.ndarray:
    return np.asarray(to_inputs(subject.examples.x[index]))


def _told_linf(subject: Subject, norm: float, points: np.ndarray) -> str:
    return f"linf {norm:.2g}, as {predictions(subject.model, subject.variables, points)[0]}"
