"""From one example to many."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxrobust.types import Array, AttackResult, Key, LogitsFn


def example_keys(key: Key, index: Array) -> Key:
    """One key per example, from its own index alone: batching never changes a result."""
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(index)


def batched(
    attack: Callable[[Key, LogitsFn, Array, Array], AttackResult],
    key: Key,
    f: LogitsFn,
    x: Array,
    y: Array,
    *,
    index: Array | None = None,
    axis_name: str | None = None,
) -> AttackResult:
    """Runs `attack` on every example of a batch, side by side; fields gain a leading axis.

    Args:
      f: the classifier of ONE example. x: `[B, ...]`. y: `[B]` integers.
      index: each example's own number (default its position); it alone seeds its randomness.
      axis_name: names the mapped axis, for an `f` that takes training batch statistics over it.
    """
    index = jnp.arange(x.shape[0]) if index is None else index
    run = jax.vmap(lambda k, a, b: attack(k, f, a, b), axis_name=axis_name)
    return run(example_keys(key, index), x, y)
