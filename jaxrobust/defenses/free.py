"""Free adversarial training: one backward pass moves the parameters and the perturbation."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxrobust import checks
from jaxrobust.defenses.base import Defense, LossOutput, TrainContext, forward, metrics_of
from jaxrobust.defenses.ramp import grown_threat
from jaxrobust.threats.covering import warn_of_covering
from jaxrobust.types import Array, Batch, Key, Model, Scalar, ThreatModel, Variables


def free(
    threat: ThreatModel,
    *,
    shape: Sequence[int],
    replays: int = 8,
    step_size: Scalar | None = None,
    ramp: Scalar = 0.0,
) -> Defense:
    """Adversarial training on x + delta, where delta outlives the batch it was found on.

    Every batch is trained on `replays` times. Each time the gradient of the loss in x + delta,
    which the backward pass for the parameters yields at no further cost, moves delta by a steepest
    step of `step_size` within the ball; the next batch starts from that delta, place by place. So
    an epoch costs as much as `replays` epochs of ERM: divide the number of epochs by it. Shafahi et
    al. 2019, Algorithm 1; Wong's thesis, section 4.1, Algorithm 6.

    Other than there, the gradient is taken at the projected point, also where the pixel box clips.
    delta is part of the train state (checkpoints hold it), the same on every device.

    Args:
      threat: the ball.
      shape: of a whole batch over all devices, for example (128, 32, 32, 3).
      replays: visits to each batch in a row (paper: 8).
      step_size: default the radius.
      ramp: share of training over which the ball that x + delta is projected on grows.
    """
    checks.at_least("replays", replays, 1)
    if len(shape) < 2:
        raise ValueError(f"shape must be that of a batch, such as (128, 32, 32, 3), got {shape}")
    for size in shape:
        checks.at_least("shape", size, 1)
    length = threat.radius if step_size is None else step_size
    checks.nonnegative("step_size", length)
    checks.fraction("ramp", ramp)
    unboxed = dataclasses.replace(threat, lower=-jnp.inf, upper=jnp.inf)

    def loss(
        key: Key, model: Model, variables: Variables, batch: Batch, context: TrainContext
    ) -> tuple[Array, LossOutput]:
        warn_of_covering([threat], batch.x.shape[1:])
        delta = own_share("free", context.state, batch, context.axes)
        ball = grown_threat(threat, context.progress, ramp)
        points = jax.vmap(ball.project)(batch.x, batch.x + jax.lax.stop_gradient(delta))
        # The value is the projected point's, the gradient in delta that of the loss there.
        points = jax.lax.stop_gradient(points - delta) + delta
        logits, variables = forward(key, model, variables, points, axes=context.axes)
        metrics = metrics_of(batch.y, adversarial=logits)
        return metrics["adversarial_loss"], LossOutput(variables.stats, context.state, metrics)

    def ascend_state(state: Array, gradient: Array) -> Array:
        def move(delta: Array, g: Array) -> Array:
            step = jnp.asarray(length, delta.dtype) * threat.steepest(g, delta)
            return unboxed.project(jnp.zeros_like(delta), delta + step)

        return jax.vmap(move)(state, jnp.where(jnp.isfinite(gradient), gradient, 0))

    return Defense(
        lambda: jnp.zeros(tuple(shape), jnp.float32),
        loss,
        ascend_state=ascend_state,
        replays=replays,
    )


def own_share(method: str, state: Array, batch: Batch, axes: tuple[str, ...]) -> Array:
    """This device's part, one entry per example, of a state that holds the whole batch.

    Raises:
      ValueError: a batch of another shape than `method`'s state was built for.
    """
    share = len(batch.x)
    whole = share * (jax.lax.axis_size(axes) if axes else 1)
    if state.shape != (whole, *batch.x.shape[1:]):
        raise ValueError(
            f"{method} was built for batches of shape {state.shape}, got "
            f"{(whole, *batch.x.shape[1:])}; give it the shape of the run's global batch"
        )
    position = jax.lax.axis_index(axes) if axes else 0
    return jax.lax.dynamic_slice_in_dim(state, position * share, share)
