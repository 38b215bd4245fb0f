"""The training step: a pure function of one device's shard of the batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxrobust.defenses import Defense, TrainContext
from jaxrobust.lagrangian import Multiplier
from jaxrobust.training.state import TrainState
from jaxrobust.types import Array, Batch, Key, Model, Variables

DEVICES = "devices"
"""Name of the mapped axis over devices."""

Augment = Callable[[Key, Array], Array]
"""(key, one image) -> the augmented image."""

Step = Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]]


class Parts(NamedTuple):
    """What a training run is made of, beside its images."""

    model: Model
    defense: Defense
    optimizer: optax.GradientTransformation
    multiplier: Multiplier | None
    augment: Augment | None


def make_step(
    model: Model,
    defense: Defense,
    optimizer: optax.GradientTransformation,
    *,
    multiplier: Multiplier | None = None,
    augment: Augment | None = None,
    total_steps: int = 1,
    axis: str = DEVICES,
) -> Step:
    """Makes the training step of one device: one primal step and one dual step.

    Primal: the optimizer on the gradient of the defense's loss. Dual: the multiplier on the
    violation, after the primal step, both measured on the same batch. Gradients, batch statistics,
    violation and metrics are means over the named axis, so the state stays equal on every device:
    run the step under `jax.pmap(..., axis_name=axis)` or `jax.shard_map` over a mesh axis of that
    name. Randomness is drawn per example from its data-set index (dropout: per device), so that
    a batch gives the same step on any number of devices.

    Args:
      model: the classifier to train.
      defense: the training method.
      optimizer: the optimizer of the parameters.
      multiplier: the multiplier of a constrained defense.
      augment: applied to each image before everything else.
      total_steps: the steps of the whole run; `progress` is step / total_steps.
      axis: the name of the mapped axis over devices.

    Returns:
      `step(state, shard) -> (state, metrics)`. The shard is the device's `Batch`: inputs
      `[B, ...]`, labels and data-set indices `[B]`. The metrics are scalars by name: `loss`, those
      of the defense, and `gradient_norm`, the l2 norm of the mean gradient. With a multiplier they
      are joined by the `violation` and the moved `multiplier`, `[G]` each where there are G
      constraints.
    """

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        # Replays of a batch share its augmentation.
        augment_key = _keys(state.key, state.step // defense.replays)[0]
        loss_key = _keys(state.key, state.step)[1]
        if augment is not None:
            keys = jax.vmap(lambda i: jax.random.fold_in(augment_key, i))(batch.index)
            batch = batch._replace(x=jax.vmap(augment)(keys, batch.x))

        nu = None if state.multiplier is None else state.multiplier.value

        def objective(params, method):
            context = TrainContext(nu, method, state.step / total_steps, (axis,))
            variables = Variables(params, state.variables.stats)
            return defense.loss(loss_key, model, variables, batch, context)

        # One backward pass for both, where the method climbs too.
        sought = (0,) if defense.ascend_state is None else (0, 1)
        (loss, aux), (gradient, *rise) = jax.value_and_grad(objective, sought, has_aux=True)(
            state.variables.params, state.defense_state
        )
        metrics = {"loss": loss, **aux.metrics}
        # Counters and flags among the statistics are equal on every device, and have no mean.
        leaves, structure = jax.tree.flatten(aux.stats)
        floats = [leaf if jnp.issubdtype(leaf.dtype, jnp.inexact) else None for leaf in leaves]
        gradient, means, violation, metrics = jax.lax.pmean(
            (gradient, floats, aux.violation, metrics), axis
        )
        parts = zip(leaves, means, strict=True)
        stats = structure.unflatten([leaf if mean is None else mean for leaf, mean in parts])
        metrics["gradient_norm"] = optax.tree.norm(gradient)
        method = aux.state
        if defense.ascend_state is not None:
            method = defense.ascend_state(method, jax.lax.psum(rise[0], axis))
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.variables.params)
        moved = state.multiplier
        if multiplier is not None and state.multiplier is not None:
            moved = multiplier.update(state.multiplier, violation)
            metrics |= {"violation": violation, "multiplier": moved.value}
        return TrainState(
            variables=Variables(optax.apply_updates(state.variables.params, updates), stats),
            opt_state=opt_state,
            multiplier=moved,
            defense_state=method,
            step=state.step + jnp.int32(1),
            key=state.key,
        ), metrics

    return step


def _keys(key: Key, step: Array) -> Key:
    return jax.random.split(jax.random.fold_in(key, step))
