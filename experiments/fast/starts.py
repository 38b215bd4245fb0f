"""Where single-step training starts, beside the clean image and a uniform point of the ball."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxrobust import attacks, checks
from jaxrobust.defenses.base import (
    Defense,
    LossOutput,
    TrainContext,
    adversarial_examples,
    check_attack_mode,
    forward,
    metrics_of,
)
from jaxrobust.defenses.free import own_share
from jaxrobust.defenses.ramp import grown_threat
from jaxrobust.threats import Linf
from jaxrobust.types import Array, Batch, Key, Model, Scalar, ThreatModel, Variables


def hypercube(key: Key, threat: ThreatModel, x: Array) -> Array:
    """x + (radius / 2) sign(N(0, I)), the start of R+FGSM, not clipped to the pixel box.

    A corner of the cube of half the radius (Tramèr et al. 2017; Wong's thesis, section 4.1.4); as
    `attacks.unclipped`, beside which Table 4.3 shows it, it may lie outside the box.
    """
    corner = jnp.sign(jax.random.normal(key, x.shape, x.dtype))
    return x + jnp.asarray(threat.radius, x.dtype) / 2 * corner


def previous(
    threat: Linf,
    *,
    shape: Sequence[int],
    step_size: Scalar | None = None,
    attack_mode: str = "eval",
    ramp: Scalar = 0.0,
) -> Defense:
    """FGSM training from the perturbation of the batch before, place by place.

    The "previous init" of Wong's thesis, Table 4.1: as in Free training the perturbation outlives
    its batch, but every batch is seen once and attacked by a gradient of its own. The
    perturbations are part of the train state, the same on every device; the first batch starts at
    its clean images.

    Args:
      threat: the ball. shape: of a whole batch over all devices, for example (128, 32, 32, 3).
      step_size: default the radius. attack_mode, ramp: see `defenses.base.adversarial_examples`.

    Raises:
      ValueError: an impossible setting; in training, batches of another shape.
    """
    check_attack_mode(attack_mode)
    checks.fraction("ramp", ramp)
    # A step within the cube of its own length is unbounded but for the box: the ball comes after.
    length = threat.radius if step_size is None else step_size
    step = attacks.fgsm(dataclasses.replace(threat, radius=length), step_size=length)

    def loss(
        key: Key, model: Model, variables: Variables, batch: Batch, context: TrainContext
    ) -> tuple[Array, LossOutput]:
        attack_key, drop_key = jax.random.split(key)
        ball = grown_threat(threat, context.progress, ramp)
        delta = own_share("previous", context.state, batch, context.axes)
        start = jax.vmap(ball.project)(batch.x, batch.x + delta)
        stepped = adversarial_examples(
            attack_key, step, model, variables, batch._replace(x=start), context,
            attack_mode=attack_mode, ramp=ramp,
        )  # fmt: skip
        points = jax.vmap(ball.project)(batch.x, stepped)
        logits, variables = forward(drop_key, model, variables, points, axes=context.axes)
        metrics = metrics_of(batch.y, adversarial=logits)
        found = jax.lax.stop_gradient(points - batch.x)
        return metrics["adversarial_loss"], LossOutput(
            variables.stats, _whole(found, context.axes), metrics
        )

    return Defense(lambda: jnp.zeros(tuple(shape), jnp.float32), loss)


def _whole(share: Array, axes: tuple[str, ...]) -> Array:
    """The perturbations of all devices, in their order."""
    return jax.lax.all_gather(share, axes, tiled=True) if axes else share
