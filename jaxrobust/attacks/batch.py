"""From one example to many."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxrobust import checks
from jaxrobust.types import Array, AttackResult, Key, LogitsFn, PyTree


def example_keys(key: Key, index: Array) -> Key:
    """One key per example, from its own index alone: batching never changes a result."""
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(index)


def batched(
    attack: Callable[..., AttackResult],
    key: Key,
    f: LogitsFn,
    x: Array,
    y: Array,
    *more: PyTree,
    index: Array | None = None,
    axis_name: str | None = None,
) -> AttackResult:
    """Runs `attack` on every example of a batch, side by side; fields gain a leading axis.

    Outside `jit`, where the numbers are known, inputs must lie in the attack's pixel box and labels
    among the classes; shapes and types are checked always.

    Args:
      f: the classifier of ONE example. x: `[B, ...]`. y: `[B]` integers.
      more: arrays `[B, ...]` of whatever else `attack` takes for each example.
      index: each example's own number (default its position); it alone seeds its randomness.
      axis_name: names the mapped axis, for an `f` that takes training batch statistics over it.

    Raises:
      ValueError: inputs that are not finite floats inside the box, labels that are not `[B]`
        integers below the number of classes, a model with fewer than two classes.
    """
    _check(attack, f, x, y, mapped=axis_name is not None)
    index = jnp.arange(x.shape[0]) if index is None else index
    run = jax.vmap(lambda k, *example: attack(k, f, *example), axis_name=axis_name)
    return run(example_keys(key, index), x, y, *more)


def _check(attack: Any, f: LogitsFn, x: Array, y: Array, *, mapped: bool) -> None:
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"inputs must be floating point, got {x.dtype}; see data.to_float")
    if jnp.finfo(x.dtype).bits < 32:
        raise ValueError(
            f"inputs must be at least float32, got {x.dtype}, whose rounding is as large as usual "
            "radii; give the model dtype=bfloat16 instead, which computes so inside"
        )
    if y.shape != x.shape[:1] or not jnp.issubdtype(y.dtype, jnp.integer):
        raise ValueError(
            f"labels must be integers of shape {x.shape[:1]}, one per example, "
            f"got {y.dtype} of shape {y.shape}"
        )
    # A model of training batch statistics cannot be evaluated outside its mapped axis.
    shape = None if mapped else jax.eval_shape(f, x[0]).shape
    if shape is not None and (len(shape) != 1 or shape[0] < 2):
        raise ValueError(f"a classifier maps an example to 2 or more logits, got shape {shape}")
    threat = getattr(attack, "settings", {}).get("threat")
    box = (getattr(threat, "lower", 0.0), getattr(threat, "upper", 1.0))
    if checks.is_concrete(x) and all(checks.is_concrete(b) and jnp.ndim(b) == 0 for b in box):
        checks.images(x, lower=float(box[0]), upper=float(box[1]))
    if checks.is_concrete(y) and shape is not None:
        checks.labels(y, count=len(x), num_classes=shape[0])
