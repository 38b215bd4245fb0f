"""The classifiers that the Wasserstein study attacks: trained here, or released with the thesis."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from jaxrobust import defenses, training
from jaxrobust.data import Dataset, Split
from jaxrobust.types import Array, Model, PyTree, Variables

from ..common.runner import AUGMENT, Study
from ..common.trained import released
from .recipes import Setting

THRESHOLD = 128
"""The least 8-bit pixel that is at least .5."""

RELEASED: Mapping[str, str] = {
    "standard": "mnist_small_standard",
    "binarized": "mnist_small_binarized",
    "binarized-inside": "mnist_small_binarized",
    "linf": "mnist_small_dual_linf_0.1",
    "adversarial": "mnist_small_wasserstein_adv",
}
"""Models of section 5.2.1 by the stem of their weights.

The released code attacks `binarized` after the threshold: the image is binarized first, and the
network sees the perturbed image as it is. `binarized-inside` is the defense that section 5.2.1
speaks of: the threshold comes after the perturbation, and passes gradients straight through.
"""

TRAINED = ("standard", "adversarial")
"""Models that can be trained here."""


class Subject(NamedTuple):
    """A classifier and the images it is attacked on."""

    name: str
    model: Model
    variables: Variables
    examples: Split
    """Examples to attack."""
    test: Split
    """The whole test split, for the clean accuracy."""


def straight_through(model: Model) -> Model:
    """`models.binarized(model)` whose gradient is that of `model` at the binarized image.

    So a gradient attack sees where the threshold leads (BPDA: Athalye et al. 2018, section 4.1).
    """

    def apply(variables: Variables, x: Array, **options: object) -> tuple[Array, PyTree]:
        hard = (x >= 0.5).astype(x.dtype)
        # x less itself is exactly 0, so that the values are exactly those of the threshold.
        return model.apply(variables, hard + (x - jax.lax.stop_gradient(x)), **options)

    return Model(model.init, apply)


def binary(split: Split) -> Split:
    """The images with pixels below .5 set to 0 and all others to 1."""
    return split._replace(x=np.where(split.x >= THRESHOLD, 255, 0).astype(np.uint8))


def released_subjects(
    names: tuple[str, ...], directory: Path, dataset: Dataset, count: int
) -> list[Subject]:
    """The released models, to be attacked on the first `count` test images.

    Raises:
      FileNotFoundError, ValueError: what `trained.released` raises.
    """
    plain, inside = None, None
    subjects = []
    for name in names:
        trained = released(RELEASED[name], directory, dataset)
        # One network for all weights: they share compiled programs.
        plain = plain or trained.model
        inside = inside or straight_through(plain)
        model = inside if name == "binarized-inside" else plain
        test = binary(dataset.test) if name == "binarized" else dataset.test
        subjects.append(Subject(name, model, trained.variables, test.first(count), test))
    return subjects


def trained_subjects(
    names: tuple[str, ...],
    setting: Setting,
    shared: Study,
    count: int,
    *,
    seed: int,
    folder: Path,
    progress: bool,
) -> list[Subject]:
    """Trains the models, resuming from `folder`; attacked on the first `count` test images.

    Adversarial training sees the first adversarial example in a range of budgets (Wong's thesis,
    section 5.2.3).
    """
    dataset, recipe = shared.dataset, shared.recipe
    attack = setting.train.attack(setting.plans, setting.step_size)
    rows = {"standard": defenses.erm, "adversarial": lambda: defenses.adversarial(attack)}
    about = {
        "dataset": dataset.name,
        "recipe": dataclasses.asdict(recipe),
        "plans": dataclasses.asdict(setting.plans),
        "budgets": dataclasses.asdict(setting.train),
    }
    subjects = []
    for name in names:
        run = training.fit(
            seed,
            shared.model,
            rows[name](),
            dataset,
            shared.optimizer,
            epochs=recipe.epochs,
            batch_size=recipe.batch_size,
            run=folder / f"{name}-seed{seed}",
            config={**about, "method": name},
            augment=AUGMENT if recipe.augment else None,
            progress=progress,
        )
        examples = dataset.test.first(count)
        variables = run.state.variables
        subjects.append(Subject(name, shared.model, variables, examples, dataset.test))
    return subjects
