"""Losses and errors after every epoch of training on bounds: Figures 3.6, 3.12 to 3.14 and 3.21,
and of the stages of a cascade, Figure 3.18.

Standard and robust, on the first images trained on and of the test split. The robust ones are those
of exact Wong-Kolter bounds at the full radius, whatever the network trains on and however far its
radius has grown.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxrobust import attacks, losses, training
from jaxrobust.data import Split
from jaxrobust.duals import certify
from jaxrobust.duals.cascade import uncertified
from jaxrobust.types import Array, Key, LogitsFn, Model, ThreatModel, Variables

from ..common.per_image import per_image
from .cascades import PAPER, decisions
from .subjects import Row, Trainer, defense, network

BATCH = 50
"""Images bounded side by side."""

EXACT = "exact"
"""The row of Figure 3.21 without projections."""

History = Sequence[Mapping[str, Any]]


class Found(NamedTuple):
    """What one image says, scalars; or `[N]`."""

    loss: Array
    error: Array
    """Whether it is misclassified."""
    robust_loss: Array
    robust_error: Array
    """Whether it is not certified."""
    label: Array
    """The prediction."""
    certain: Array
    """Whether the prediction is certified."""


def found(
    threat: ThreatModel, key: Key, f: LogitsFn, x: Array, y: Array, *, chunk: int | None
) -> Found:
    """Losses and verdicts of an image by exact Wong-Kolter bounds."""
    del key
    logits = f(x)
    proof = certify(f, x, y, threat, chunk=chunk, **PAPER)
    guess = jnp.argmax(logits)
    return Found(
        losses.cross_entropy(logits, y),
        attacks.fooled(logits, y),
        losses.cross_entropy(proof.robust_logits, y),
        ~proof.certified,
        guess,
        certify(f, x, guess, threat, chunk=chunk, **PAPER).certified,
    )


@functools.lru_cache(maxsize=4)
def _found(chunk: int | None) -> functools.partial:
    # One object for each chunk, or every epoch would compile anew.
    return functools.partial(found, chunk=chunk)


def measured(
    model: Model, variables: Variables, split: Split, threat: ThreatModel, chunk: int | None
) -> Found:
    """`found` of every image."""
    return per_image(
        Partial(_found(chunk), threat),
        model,
        variables,
        split,
        batch_size=BATCH,
    )


def watch(
    model: Model, splits: Mapping[str, Split], threat: ThreatModel, chunk: int | None
) -> training.Validate:
    """Means over each split's images, errors in %, under "split loss", "split robust error", ..."""

    def validate(variables: Variables) -> dict[str, float]:
        row = {}
        for name, split in splits.items():
            here = measured(model, variables, split, threat, chunk)
            for robust in ("", "robust_"):
                kind = f"{name} {robust.replace('_', ' ')}"
                row[f"{kind}loss"] = float(np.mean(getattr(here, f"{robust}loss")))
                row[f"{kind}error"] = 100 * float(np.mean(getattr(here, f"{robust}error")))
        return row

    return validate


@dataclasses.dataclass(frozen=True)
class Lesson:
    """The row whose learning is followed: the first network, radius and method on bounds."""

    trainer: Trainer
    seed: int

    @property
    def row(self) -> Row:
        """It; ValueError where no method trains on bounds."""
        setting = self.trainer.setting
        if setting.main is None:
            raise ValueError("curves of training on bounds need one of --methods dual or interval")
        return Row(setting.networks[0], setting.epsilons[0], setting.main)

    def splits(self) -> dict[str, Split]:
        """The images that are followed."""
        dataset, count = self.trainer.dataset, self.trainer.setting.watched
        return {"train": dataset.train.first(count), "test": dataset.test.first(count)}

    def history(self, row: Row, samples: int | None = None) -> History:
        """The history of a row's training, with the metrics of `watch`; resumes."""
        trainer = self.trainer
        if samples is not None:
            setting = dataclasses.replace(trainer.setting, samples=samples)
            trainer = dataclasses.replace(trainer, setting=setting)
        setting = trainer.setting
        model = network(setting, row.network, trainer.dataset)
        lessons = defense(setting, row)
        threat = trainer.threat(row)
        return trainer.run(
            row,
            self.seed,
            trainer.study(model, row.network, trainer.dataset),
            lessons=lessons,
            told="watched" if samples is None else f"k{samples} watched",
            validate=watch(model, self.splits(), threat, setting.chunk),
        ).history


def curves(lesson: Lesson) -> dict[str, History]:
    """Figure 3.6."""
    return {lesson.row.name: lesson.history(lesson.row)}


def projections(lesson: Lesson) -> dict[str, History]:
    """Figure 3.21: training on exact bounds, and on estimates of them by k projections."""
    exact = lesson.row._replace(method="dual")
    histories = {EXACT: lesson.history(exact)}
    for samples in lesson.trainer.setting.projections:
        row = exact._replace(method="projections")
        histories[f"k {samples}"] = lesson.history(row, samples)
    return histories


def gaps(histories: Mapping[str, History]) -> list[dict[str, Any]]:
    """A row per history: robust errors of the last epoch in %, and what training hides of them."""
    rows = []
    for name, history in histories.items():
        train, test = (history[-1][f"{split} robust error"] for split in ("train", "test"))
        own = {"train robust error": train, "test robust error": test, "gap": test - train}
        rows.append({"method": name, "epochs": len(history), **own})
    return rows


class Stage(NamedTuple):
    """The robust errors, in %, after every epoch of a stage."""

    train: list[float]
    """Of the network, on the images that it trains on."""
    test: list[float]
    """Of the cascade up to it, on test images."""


def stages(lesson: Lesson) -> list[Stage]:
    """Figure 3.18: the cascade's stages, by the thesis' (published) rule; ends early as `trained`.

    Each trains on what no stage before certifies.
    """
    trainer, row = lesson.trainer, lesson.row
    setting, dataset = trainer.setting, trainer.dataset
    model = network(setting, row.network, dataset)
    threat, lessons = trainer.threat(row), defense(setting, row)
    test = lesson.splits()["test"]
    earlier: list[Found] = []
    left, made = dataset.train, []
    for stage in range(setting.stages):
        part = dataclasses.replace(dataset, train=left)
        first = left.first(setting.watched)

        def validate(
            variables: Variables, first: Split = first, before: tuple = tuple(earlier)
        ) -> dict[str, float]:
            own = measured(model, variables, first, threat, setting.chunk)
            now = measured(model, variables, test, threat, setting.chunk)
            error = cascade_error([*before, now], test.y)
            return {"stage error": 100 * float(np.mean(own.robust_error)), "cascade error": error}

        run = trainer.run(
            row,
            lesson.seed,
            trainer.study(model, row.network, part),
            lessons=lessons,
            stage=stage,
            told="watched stage",
            validate=validate,
        )
        made.append(Stage(*([e[n] for e in run.history] for n in ("stage error", "cascade error"))))
        variables = run.state.variables
        earlier.append(measured(model, variables, test, threat, setting.chunk))
        kept = uncertified(model, variables, left, threat, chunk=setting.chunk, **PAPER)
        left = Split(left.x[kept], left.y[kept])
        if left.size < setting.recipe.batch_size:
            break
    return made


def cascade_error(found: Sequence[Found], y: np.ndarray) -> float:
    """% of the images that a cascade does not certify right, by the published rule."""
    labels = np.stack([np.asarray(one.label) for one in found], 1)
    proofs = np.stack([np.asarray(one.certain) for one in found], 1)
    decision = decisions(labels, proofs, "published")
    right = np.asarray(decision.label) == y
    return 100 * float(np.mean(~(right & np.asarray(decision.certified))))
