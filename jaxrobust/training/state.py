"""Everything a training run carries from step to step."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxrobust.defenses import Defense
from jaxrobust.lagrangian import Multiplier, MultiplierState
from jaxrobust.types import Array, Key, Model, PyTree, Variables


class TrainState(NamedTuple):
    """The complete state: what is here is checkpointed, donated and replicated, nothing else is."""

    variables: Variables
    """Parameters and batch statistics."""
    opt_state: PyTree
    multiplier: MultiplierState | None
    """The Lagrange multiplier; None where the defense has no constraint."""
    defense_state: PyTree
    """The defense's own state."""
    step: Array
    """int32: steps taken."""
    key: Key
    """The run's key; step t uses `fold_in(key, t)`."""


def init_state(
    key: Key,
    model: Model,
    defense: Defense,
    optimizer: optax.GradientTransformation,
    multiplier: Multiplier | None,
    x: Array,
    *,
    variables: Variables | None = None,
) -> TrainState:
    """The state before the first step.

    Args:
      key: the random key of the run, which parameters and steps draw from.
      model: the classifier to train.
      defense: the training method.
      optimizer: the optimizer of the parameters.
      multiplier: the multiplier of a constrained defense, else None.
      x: a sample batch `[B, ...]` that shows the model its input shape.
      variables: what to start from in place of fresh ones.

    Returns:
      A `TrainState` with fresh variables, if none are given, and fresh states of the optimizer, the
      multiplier (None without one) and the defense; `step` is 0, an int32 scalar.

    Raises:
      ValueError: a constrained defense without a multiplier, or the reverse.
    """
    if defense.constrained and multiplier is None:
        raise ValueError(
            "this defense has a constraint and needs a multiplier: pass lagrangian.pi(...) or "
            "lagrangian.dual_ascent(...)"
        )
    if not defense.constrained and multiplier is not None:
        raise ValueError("this defense has no constraint; pass multiplier=None")
    init_key, run_key = jax.random.split(key)
    variables = model.init(init_key, x) if variables is None else variables
    return TrainState(
        variables=variables,
        opt_state=optimizer.init(variables.params),
        multiplier=None if multiplier is None else multiplier.init(),
        defense_state=defense.init(),
        step=jnp.zeros((), jnp.int32),
        key=run_key,
    )
