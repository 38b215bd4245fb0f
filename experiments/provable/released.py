"""The networks and cascades released with the thesis, certified without training."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jaxrobust import data
from jaxrobust.data import Dataset
from jaxrobust.models import load_cascade

from ..common.attack_menu import make_threat
from ..common.reference import original_order
from ..common.trained import released
from .cascades import Cascade
from .measure import Measured
from .recipes import Setting
from .subjects import Row, Subject

WEIGHTS = {"standard": "mnist_small_standard", "dual": "mnist_small_dual_linf_0.1"}
"""Stems of the files by method."""

CASCADES = (
    ("mnist", "mnist_small_dual_cascade_linf_0.3", "linf", 0.3, "bound 33.64"),
    ("cifar10", "cifar_small_dual_cascade_linf_8_255", "linf", 8 / 255, "bound 71.71"),
    ("cifar10", "cifar_small_dual_cascade_l2_36_255", "l2", 36 / 255, "bound 50.13"),
)
"""Data set, stem of the file, ball and figure published for all 10,000 test images."""

REFERENCE = "dual_mnist_linf_0.1.npz"


def subjects(setting: Setting, dataset: Dataset, directory: Path) -> Iterator[Subject]:
    """The released MNIST networks."""
    examples, model = dataset.test.first(setting.limit), None
    for method in setting.methods:
        trained = released(WEIGHTS[method], directory, dataset)
        # One network for all weights: they share compiled programs.
        model = model or trained.model
        row = Row("small", setting.epsilons[0], method)
        threat = make_threat(setting.norm, row.radius)
        yield Subject(row, 0, model, trained.variables, threat, examples)


def cascades(setting: Setting, mnist: Dataset, directory: Path, data_dir: Path | None) -> Iterator:
    """The released cascades, on the first test images; CIFAR-10's in the order of TFDS."""
    for name, stem, norm, radius, published in CASCADES:
        stages = load_cascade(stem, directory)
        held = mnist if name == "mnist" else data.load(name, data_dir=data_dir, limit=setting.limit)
        examples = held.test.first(setting.limit)
        row = Row(f"{held.label} {norm}", radius, "cascade")
        model, variables = stages[0]
        subject = Subject(row, 0, model, variables, make_threat(norm, radius), examples)
        yield Cascade(subject, [v for _, v in stages], published)


def ordered(dataset: Dataset, directory: Path) -> Dataset:
    """The data set with its test images in the original order."""
    return dataclasses.replace(dataset, test=original_order(dataset.test, directory))


def beside(measured: Measured, directory: Path) -> dict[str, object]:
    """How far our Wong-Kolter bounds are from the released code's, on its 500 images at most."""
    with np.load(directory / REFERENCE, allow_pickle=False) as held:
        theirs = -held["robust_logits"]
    ours = measured.certified["Wong-Kolter"].lower[: len(theirs)]
    theirs = theirs[: len(ours)]
    return {
        "method": measured.subject.name,
        "images": len(ours),
        "largest difference": f"{np.abs(ours - theirs).max():.2g}",
        "largest bound": f"{np.abs(theirs).max():.3g}",
        "verdicts that differ": int(((ours < 0).any(1) != (theirs < 0).any(1)).sum()),
    }
