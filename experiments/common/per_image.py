"""Numbers of every image of a split under a trained model: scores, losses, convergence."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import numpy as np
from jax.tree_util import Partial

from jaxrobust import losses
from jaxrobust.attacks import example_keys
from jaxrobust.data import Split, to_inputs
from jaxrobust.data.batches import padded_batches
from jaxrobust.types import Array, Key, LogitsFn, Model, PyTree, Variables

from .runner import EVAL_BATCH


def per_image(
    measure: Partial,
    model: Model,
    variables: Variables,
    split: Split,
    *,
    key: Key | None = None,
    batch_size: int = EVAL_BATCH,
) -> PyTree:
    """What `measure(key, f, x, y)` finds for every image, as arrays `[N, ...]`.

    Computed by each process for itself.

    Args:
      measure: a module-level function in a `Partial` with the attacks it needs, whose numbers are
        then traced: other ones, or other weights, compile nothing anew.
      key: each image draws from it and its own index (default: key 0).
    """
    run = _program(model)
    key = jax.random.key(0) if key is None else key
    variables = jax.tree.map(np.asarray, variables)
    parts = []
    batches = (np.asarray(a) for a in padded_batches(split.size, min(batch_size, split.size)))
    for index, mask in zip(*batches, strict=True):
        found = run(measure, variables, key, index, split.x[index], split.y[index])
        parts.append(jax.tree.map(lambda a, m=mask: np.asarray(a)[m], found))
    return jax.tree.map(lambda *a: np.concatenate(a), *parts)


def clean_cross_entropy(key: Key, f: LogitsFn, x: Array, y: Array) -> Array:
    """The cross-entropy at the image itself."""
    del key
    return losses.cross_entropy(f(x), y)


@functools.lru_cache(maxsize=16)
def _program(model: Model) -> Callable[..., PyTree]:
    @jax.jit
    def run(
        measure: Partial, variables: Variables, key: Key, index: Array, x: Array, y: Array
    ) -> PyTree:
        f = model.logits_fn(variables)
        each = jax.vmap(lambda k, a, b: measure(k, f, a, b))
        return each(example_keys(key, index), to_inputs(x), y)

    return run
