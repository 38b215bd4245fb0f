"""Cascades of networks, each for what those before it cannot certify: tables 3.5 and 3.7."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.data import Split, to_inputs
from jaxrobust.duals.cascade import RULES, decide, uncertified
from jaxrobust.types import Variables

from ..common.trained import predictions
from .certifiers import CERTIFICATES, own
from .measure import Run
from .subjects import Subject, Trainer, defense

PAPER = CERTIFICATES["Wong-Kolter"]
"""The bounds that the thesis and the released code use in cascades."""


class Cascade(NamedTuple):
    """A cascade's stages; `subject` is the first."""

    subject: Subject
    stages: Sequence[Variables]
    published: str = ""


def trained(trainer: Trainer, subject: Subject) -> Cascade:
    """`subject` and later stages, each trained on the images that no stage before certifies.

    Ends early where those fill no batch. All stages learn by the method of the first.
    """
    setting, dataset = trainer.setting, trainer.dataset
    lessons, stages, left = defense(setting, subject.row), [subject.variables], dataset.train
    for stage in range(1, setting.stages):
        kept = uncertified(
            subject.model, stages[-1], left, subject.threat, chunk=setting.chunk, **PAPER
        )
        left = Split(left.x[kept], left.y[kept])
        if left.size < setting.recipe.batch_size:
            break
        part = dataclasses.replace(dataset, train=left)
        shared = trainer.study(subject.model, subject.row.network, part)
        stages.append(
            trainer.train(subject.row, subject.seed, shared, stage=stage, lessons=lessons)
        )
    key = (subject.row.network, subject.row.name.split()[1], f"{subject.row.method} cascade")
    return Cascade(subject, stages, setting.published.get(key, ""))


def stage_rows(run: Run, cascade: Cascade) -> list[dict[str, Any]]:
    """Errors in % of the first stage alone, of the first two, and so on, by every rule.

    "Clean" is the error of the label that the cascade gives; the others count examples whose label
    is wrong or does not hold by the rule (`duals.cascade`).
    """
    subject = cascade.subject
    examples = subject.examples
    labels, proofs = [], []
    for stage, variables in enumerate(cascade.stages):
        one = subject._replace(variables=variables)
        found = run.certify(one, f"stage{stage}", own, **PAPER)
        proofs.append(found.certified)
        labels.append(predictions(one.model, one.variables, np.asarray(to_inputs(examples.x))))
    rows = []
    for count in range(1, len(labels) + 1):
        row: dict[str, Any] = {"method": f"{subject.row.name}, {count} of {len(labels)} stages"}
        for rule in RULES:
            decision = decisions(np.stack(labels[:count], 1), np.stack(proofs[:count], 1), rule)
            # The label is the same by every rule.
            right = np.asarray(decision.label) == examples.y
            row["Clean"] = 100 * float(np.mean(~right))
            row[rule] = 100 * float(np.mean(~(right & np.asarray(decision.certified))))
        if run.setting.published:
            row["in the thesis"] = cascade.published if count == len(labels) else ""
        rows.append(row)
    return rows


def decisions(labels: np.ndarray, proofs: np.ndarray, rule: str) -> Any:
    return jax.vmap(lambda a, b: decide(a, b, rule=rule))(jnp.asarray(labels), jnp.asarray(proofs))
