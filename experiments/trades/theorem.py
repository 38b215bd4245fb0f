"""How tight TRADES' bound is on a binary task (Zhang et al. 2019, theorem 3.1 and Table 3).

For the hinge loss phi, whose psi is the identity, the theorem says

    R_rob(f) - R*_nat <= R_phi(f) - R*_phi + E max_{x'} phi(f(x') f(x) / lambda).

Every image obeys 1{not robust} <= phi(f(x) y) + max phi(f(x') f(x) / lambda), and so do averages
over images whatever they are. Here one search serves both sides, so that its points keep that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxrobust import attacks, checks
from jaxrobust.data import Dataset, Split
from jaxrobust.types import Array, Attack, Key, LogitsFn

from ..common.per_image import per_image
from ..common.recipes import Recipe
from ..common.rows import Outcome
from ..common.runner import judged_network
from ..common.tables import averaged, beside
from .recipes import PUBLISHED_THEOREM

CLASSES = (1, 3)
"""The negative and the positive class."""

NATURAL = "natural"
"""Row of the classifier trained without a regularizer."""


def binary(dataset: Dataset, classes: tuple[int, int] = CLASSES) -> Dataset:
    """The images of two classes, labeled 0 and 1.

    Raises:
      ValueError: a class that the data set or one of its splits does not have.
    """

    def chosen(split: Split) -> Split:
        kept = np.isin(split.y, classes)
        return Split(split.x[kept], (split.y[kept] == classes[1]).astype(split.y.dtype))

    splits = {name: chosen(getattr(dataset, name)) for name in ("train", "validation", "test")}
    for name in ("train", "test"):
        if len(set(splits[name].y.tolist())) < 2:
            raise ValueError(
                f"the {name} split of {dataset.name!r} holds no images of one of the classes "
                f"{classes[0]} and {classes[1]}; use a larger limit"
            )
    label = f"{dataset.label}, {classes[0]} against {classes[1]}"
    return dataclasses.replace(dataset, label=label, num_classes=2, **splits)


class Scores(NamedTuple):
    """Scores of one image, or of all of them `[N]`."""

    clean: Array | np.ndarray
    """f(x), the difference of the two logits; its sign is the prediction."""
    product: Array | np.ndarray
    """The least f(x') f(x) over the points x' tried, x among them."""


def search(recipe: Recipe) -> Attack:
    """PGD on the margin: it lowers the prediction's score, whatever the loss built on it."""
    return attacks.carlini_wagner_pgd(
        recipe.threat, step_size=recipe.eval_step_size, steps=recipe.eval_steps
    )


def worst_scores(attack: Attack, key: Key, f: LogitsFn, x: Array, y: Array) -> Scores:
    """The scores of an image under a search away from its own prediction.

    Away from the prediction and not from the label, on which the second term does not depend;
    the two are one where the prediction is right, and else the image is not robust anyway.
    """

    def score(z: Array) -> Array:
        logits = f(z)
        return logits[1] - logits[0]

    clean = score(x)
    found = attack(key, f, x, (clean > 0).astype(y.dtype))
    return Scores(clean, jnp.minimum(score(found.x) * clean, clean * clean))


class Risks(NamedTuple):
    """Risks of a classifier on a split: shares and means, not in %."""

    natural: float
    """R_nat."""
    robust: float
    """R_rob, from below: over the points tried."""
    surrogate: float
    """R_phi."""
    regularizer: float
    """E max phi(f(x') f(x) / lambda), from below: over the points tried."""


def risks(scores: Scores, y: np.ndarray, lam: float) -> Risks:
    """The risks for labels 0 and 1 and the hinge loss.

    Raises:
      ValueError: lambda is not above 0.
    """
    checks.positive("lam", lam)
    margins = np.asarray(scores.clean, np.float64) * (2.0 * y - 1)
    product = np.asarray(scores.product, np.float64)
    right = margins > 0
    return Risks(
        natural=float(np.mean(~right)),
        robust=float(np.mean(~(right & (product > 0)))),
        surrogate=float(np.mean(np.maximum(0, 1 - margins))),
        regularizer=float(np.mean(np.maximum(0, 1 - product / lam))),
    )


def table_3(
    outcomes: Sequence[Outcome],
    settings: Recipe,
    dataset: Dataset,
    lambdas: Sequence[float],
    *,
    published: bool,
) -> list[dict[str, Any]]:
    """A row for the naturally trained classifier and one per lambda.

    R*_nat and R*_phi are those of the naturally trained classifier of the same seed, as in the
    paper. A classifier's own are no less than the least possible, so that both sides come out
    smaller than they are.

    Args:
      outcomes: of `NATURAL` and of "lambda=..." from each seed. published: show the paper's.
    """
    model = judged_network(settings, dataset)
    measure, y = Partial(worst_scores, search(settings)), dataset.test.y
    scores = {
        (o.method, o.seed): per_image(
            measure, model, o.variables, dataset.test, key=jax.random.key(o.seed)
        )
        for o in outcomes
    }
    seeds = list(dict.fromkeys(o.seed for o in outcomes))
    natural = {seed: risks(scores[NATURAL, seed], y, 1.0) for seed in seeds}
    rows = [{"method": NATURAL, **averaged([columns(natural[s], None) for s in seeds])}]
    for lam in lambdas:
        name = f"lambda={lam:g}"
        runs = [columns(risks(scores[name, s], y, lam), natural[s]) for s in seeds]
        rows.append({"method": name, **averaged(runs)})
    shown = PUBLISHED_THEOREM if published else None
    for row in rows:
        row |= beside(row["method"], shown, "A_rob / R_phi / Delta")
    return rows


def columns(own: Risks, best: Risks | None) -> dict[str, float | None]:
    """A row of Table 3; without `best`, the naturally trained classifier, no sides.

    Args:
      best: whose R_nat and R_phi stand for the least possible ones.
    """
    left = right = None
    if best is not None:
        left = own.robust - best.natural
        right = own.surrogate - best.surrogate + own.regularizer
    return {
        "A_nat": 100 * (1 - own.natural),
        "A_rob": 100 * (1 - own.robust),
        "R_phi": own.surrogate,
        "Delta_LHS": left,
        "Delta_RHS": right,
        "Delta": None if best is None else right - left,
    }
