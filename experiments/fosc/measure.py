"""How far attacks are from converged, by FOSC (Wang et al. 2019, eq. 4), and how strong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxrobust import attacks, checks, losses
from jaxrobust.data import Split
from jaxrobust.types import Array, Attack, Key, LogitsFn, Model, Variables

from ..common.per_image import per_image
from ..common.recipes import Recipe
from ..common.runner import Probe

TOP, BINS = 0.5, 20
"""Range and parts of a logged distribution; the range ends at the paper's c_max."""

PREFIX = "val_fosc_"
"""Prefix of its columns in a training history."""


class Convergence(NamedTuple):
    """What an attack's last point is like; scalars, or `[N]` over images."""

    fosc: Array | np.ndarray
    """Measured from the clean image, of the cross-entropy; 0 is converged."""
    boxed: Array | np.ndarray
    """The same over ball and pixel box, which lets points converge that the box holds back."""
    loss: Array | np.ndarray
    correct: Array | np.ndarray


def convergence(attack: Attack, key: Key, f: LogitsFn, x: Array, y: Array) -> Convergence:
    """FOSC, loss and verdict at the point that `attack` finds for an image; for linf."""
    z = attack.bare(key, f, x, y).x

    def objective(z: Array) -> tuple[Array, Array]:
        logits = f(z)
        return losses.cross_entropy(logits, y), logits

    (loss, logits), gradient = jax.value_and_grad(objective, has_aux=True)(z)
    gaps = (c(attack.settings["threat"], x, z, gradient) for c in (attacks.fosc, attacks.fosc_box))
    return Convergence(*gaps, loss, ~attacks.fooled(logits, y))


def path(attack: Attack, counts: Array, key: Key, f: LogitsFn, x: Array, y: Array) -> Convergence:
    """`convergence` after each of `counts` steps of `attacks.fosc_stopped_pgd` from one start."""
    each = jax.vmap(lambda steps: convergence(attack.replace(steps=steps), key, f, x, y))
    return each(counts)


def training_pgd(recipe: Recipe) -> Attack:
    """The recipe's training attack as plain PGD to its last point: the same for every method."""
    return attacks.pgd(recipe.threat, step_size=recipe.step_size, steps=recipe.steps, keep="last")


def converged(
    recipe: Recipe, model: Model, variables: Variables, split: Split, *, seed: int = 0
) -> Convergence:
    """`convergence` of the recipe's training attack on every image, `[N]`."""
    measure = Partial(convergence, training_pgd(recipe))
    return per_image(measure, model, variables, split, key=jax.random.key(seed))


def traces(
    recipe: Recipe, model: Model, variables: Variables, split: Split, *, steps: int, seed: int = 0
) -> Convergence:
    """`convergence` after 0 to `steps` steps on every image, `[N, steps + 1]` (Figure 1b)."""
    attack = attacks.fosc_stopped_pgd(recipe.threat, step_size=recipe.step_size, steps=0)
    measure = Partial(path, attack, jnp.arange(steps + 1))
    return per_image(measure, model, variables, split, key=jax.random.key(seed))


def distribution(fosc: np.ndarray) -> dict[str, float]:
    """Quantiles and mean of FOSC, and the share of images in each of `BINS` parts of [0, `TOP`].

    The last part also holds what lies above.
    """
    quantiles = {f"q{q}": float(np.percentile(fosc, q)) for q in (10, 50, 90)}
    counts, _ = np.histogram(np.clip(fosc, 0.0, TOP), BINS, (0.0, TOP))
    shares = {f"bin_{i:02d}": float(c) / len(fosc) for i, c in enumerate(counts)}
    return {**quantiles, "mean": float(np.mean(fosc)), **shares}


def shares(row: Mapping[str, Any]) -> np.ndarray:
    """The histogram in a row of a training history."""
    names = sorted(name for name in row if name.startswith(f"{PREFIX}bin_"))
    return np.asarray([row[name] for name in names])


def fosc_probe(recipe: Recipe, split: Split) -> Probe:
    """Logs the `distribution` of FOSC over the images of `split` after every epoch."""

    def probe(model: Model, variables: Variables) -> dict[str, float]:
        found = converged(recipe, model, variables, split)
        return {PREFIX + name: v for name, v in distribution(found.fosc).items()}

    return probe


def groups(found: Convergence, count: int) -> list[dict[str, float]]:
    """Images in `count` groups of rising FOSC, as equal as can be: Figure 1a.

    Raises:
      ValueError: more groups than images.
    """
    checks.at_least("groups", count, 2)
    if count > len(found.fosc):
        raise ValueError(f"{len(found.fosc)} images do not fill {count} groups; use fewer groups")
    parts = np.array_split(np.argsort(found.fosc, kind="stable"), count)
    return [
        {
            "FOSC": float(found.fosc[part].mean()),
            "FOSC in box": float(found.boxed[part].mean()),
            "accuracy": 100.0 * float(found.correct[part].mean()),
            "loss": float(found.loss[part].mean()),
        }
        for part in parts
    ]


def correlation(rows: list[dict[str, float]], column: str) -> float:
    """Pearson's, between the groups' FOSC and `column`; NaN where one of them is constant."""
    x, y = (np.asarray([row[name] for row in rows]) for name in ("FOSC", column))
    if x.std() == 0 or y.std() == 0:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])
