"""Exponential moving averages of the parameters, kept in the optimizer's state."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxrobust import checks
from jaxrobust.training.state import TrainState
from jaxrobust.types import PyTree, Variables


class Averaged(NamedTuple):
    """The state of `averaging`."""

    inner: PyTree
    """State of the optimizer."""
    average: PyTree
    """Moving average of the parameters."""


def averaging(
    optimizer: optax.GradientTransformation, *, decay: float = 0.999
) -> optax.GradientTransformation:
    """`optimizer`, which also keeps average <- decay * average + (1 - decay) * parameters.

    Training is unchanged; evaluate `averaged(state)` instead of the last parameters. Averaged
    weights overfit less in adversarial training (Gowal et al. 2020, arXiv:2010.03593). The average
    starts at the initial parameters.

    Raises:
      ValueError: decay outside [0, 1).
    """
    checks.nonnegative("decay", decay)
    if decay >= 1:
        raise ValueError(f"decay must be below 1, got {decay}: the average would never move")

    def init(params: PyTree) -> Averaged:
        return Averaged(optimizer.init(params), jax.tree.map(jnp.array, params))

    def update(updates: PyTree, state: Any, params: PyTree = None) -> tuple[PyTree, Averaged]:
        updates, inner = optimizer.update(updates, state.inner, params)
        moved = optax.apply_updates(params, updates)
        average = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, state.average, moved)
        return updates, Averaged(inner, average)

    return optax.GradientTransformation(init, update)


def averaged(state: TrainState) -> Variables:
    """The averaged parameters of a run trained with `averaging`.

    Args:
      state: the state of the run, for example `Run.state`.

    Returns:
      The variables of the model: the averaged parameters, with the run's last statistics.

    Raises:
      ValueError: the run's optimizer keeps no average.
    """
    if not isinstance(state.opt_state, Averaged):
        raise ValueError("this run keeps no average; train it with training.averaging(optimizer)")
    return state.variables._replace(params=state.opt_state.average)
