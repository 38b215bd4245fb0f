"""Adversarial weight perturbation: the loss is minimized where the weights make it worse."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrobust import checks
from jaxrobust.defenses.base import (
    Defense,
    LossOutput,
    TrainContext,
    adversarial_examples,
    check_attack,
    check_attack_mode,
    check_ramp,
    forward,
    mean_cross_entropy,
    metrics_of,
    no_state,
    over_devices,
)
from jaxrobust.types import Array, Attack, Batch, Key, Model, PyTree, Scalar, Variables


def weight_perturbation(params: PyTree, gradient: PyTree, gamma: Scalar) -> PyTree:
    """gamma ||w|| / ||v|| v for the weights w of each layer, v their gradient.

    The norms are over a whole matrix or kernel. It is 0 for biases and normalization parameters,
    which have one axis, and where a layer's gradient is 0.
    """

    def along(w: Array, v: Array) -> Array:
        if w.ndim < 2:
            return jnp.zeros_like(w)
        length = jnp.linalg.norm(v.ravel())
        ratio = jnp.linalg.norm(w.ravel()) / jnp.where(length > 0, length, 1)
        return jnp.asarray(gamma, w.dtype) * ratio * v

    return jax.tree.map(along, params, gradient)


def awp(attack: Attack, *, gamma: Scalar, attack_mode: str = "eval", ramp: Scalar = 0.0) -> Defense:
    """Adversarial training at weights perturbed, layer by layer, to raise the loss at x'.

    x' is found by the attack at the weights w; one step along the gradient of the mean CE(x') in w,
    of length gamma ||w_l|| in each layer l, perturbs them; the gradient of CE(x') there, in which
    the perturbation is a constant, trains w. It flattens the loss in the weights, against robust
    overfitting. Wu, Xia and Wang 2020, Algorithm 1, with one step for the weights.

    Both passes run in training mode under one dropout mask; running statistics and metrics come
    from the second, at the perturbed weights.

    Args:
      attack: run on every batch.
      gamma: length of the perturbation relative to the weights (their code: .01 with PGD); 0 is
        `adversarial`.
      attack_mode, ramp: see `adversarial_examples`.
    """
    check_attack(attack, defense="awp")
    checks.nonnegative("gamma", gamma)
    check_attack_mode(attack_mode)
    check_ramp(ramp, attack)

    def loss(
        key: Key, model: Model, variables: Variables, batch: Batch, context: TrainContext
    ) -> tuple[Array, LossOutput]:
        attack_key, drop_key = jax.random.split(key)
        points = adversarial_examples(
            attack_key, attack, model, variables, batch, context, attack_mode=attack_mode, ramp=ramp
        )

        def climbed(params: PyTree) -> Array:
            held = variables._replace(params=params)
            logits, _ = forward(drop_key, model, held, points, axes=context.axes)
            return mean_cross_entropy(logits, batch.y)

        held = jax.lax.stop_gradient(variables.params)
        gradient = over_devices(jax.grad(climbed)(held), context.axes)
        params = jax.tree.map(jnp.add, variables.params, weight_perturbation(held, gradient, gamma))
        logits, renewed = forward(
            drop_key, model, variables._replace(params=params), points, axes=context.axes
        )
        metrics = metrics_of(batch.y, adversarial=logits)
        return metrics["adversarial_loss"], LossOutput(renewed.stats, context.state, metrics)

    return Defense(no_state, loss)
