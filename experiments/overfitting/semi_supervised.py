"""Unlabeled images, labeled by a network trained on the labeled ones (thesis, section 4.4.3)."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from jaxrobust import data, defenses
from jaxrobust.data import Dataset, Split
from jaxrobust.types import Model, Variables

from ..common.recipes import Recipe
from ..common.rows import Method
from ..common.runner import EVAL_BATCH, judge, network, run_rows
from .methods import reflected


def predictions(model: Model, variables: Variables, x: np.ndarray) -> np.ndarray:
    """The likeliest class of every image, int32 `[N]`; x is uint8 `[N, H, W, C]`."""

    @jax.jit
    def predict(batch: jax.Array) -> jax.Array:
        logits, _ = model.apply(variables, data.to_inputs(batch), train=False, key=None, axes=())
        return jnp.argmax(logits, axis=-1)

    starts = range(0, len(x), EVAL_BATCH)
    return np.concatenate([predict(x[i : i + EVAL_BATCH]) for i in starts]).astype(np.int32)


def with_pseudo_labels(
    dataset: Dataset,
    pool: Split,
    settings: Recipe,
    **runs: Any,
) -> Dataset:
    """The data set and the pool's images, labeled by a standard network trained on the data set.

    The pool's own labels only tell how often that network, trained once, is right.

    Args:
      runs: of `run_rows`, with one seed.
    """
    plain = dataclasses.replace(settings, autoattack=0)
    (teacher,) = run_rows(
        reflected([Method("erm", defenses.erm())], plain),
        plain,
        dataset,
        judge=judge(plain, columns={}),
        **runs,
    )
    model = network(plain.model, plain.dtype, dataset, plain.model_options)
    labels = predictions(model, teacher.variables, pool.x)
    if jax.process_index() == 0:
        right = 100 * float(np.mean(labels == pool.y))
        Console().print(f"{len(labels)} pseudo-labels, {right:.1f} % of them right")
    return data.pseudo_labeled(dataset, pool.x, labels)
