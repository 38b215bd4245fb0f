"""Attacks that are made on one model and judged on another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax

from jaxrobust import attacks
from jaxrobust.data import Dataset
from jaxrobust.evaluation import Report, evaluate
from jaxrobust.types import Attack, Model, Variables

from .rows import Outcome
from .runner import EVAL_BATCH


class Source(NamedTuple):
    """The classifier that gives the gradients."""

    model: Model
    variables: Variables


def black_box(
    outcome: Outcome,
    model: Model,
    source: Source,
    columns: Mapping[str, Attack],
    dataset: Dataset,
    *,
    keep_examples: bool = False,
    progress: bool = True,
) -> Report:
    """The accuracy of a trained run on points that `columns` make on the source.

    Ascent keeps its last point there: one that stopped where the source is fooled would transfer
    less.
    """
    aimed = {
        name: attacks.transfer(attack.replace(keep="last"), *source)
        for name, attack in columns.items()
    }
    return evaluate(
        jax.random.key(outcome.seed),
        model,
        outcome.variables,
        dataset.test,
        aimed,
        batch_size=EVAL_BATCH,
        num_classes=dataset.num_classes,
        keep_examples=keep_examples,
        progress=progress,
    )
