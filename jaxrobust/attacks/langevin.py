"""DALE's sampler: projected Langevin steps."""

from __future__ import annotations

import itertools
from functools import partial

import jax.numpy as jnp
import optax

from jaxrobust import checks, losses
from jaxrobust.attacks import starts
from jaxrobust.attacks.first_order import FirstOrder, Keep, OptimizerFn, Start, first_order
from jaxrobust.attacks.transforms import NOISES, add_noise, scale_by_steepest
from jaxrobust.types import Key, Loss, Scalar, ThreatModel

PLACES = ("inside", "outside")


def _optimizer(
    noise: str,
    place: str,
    relative: bool,
    key: Key,
    threat: ThreatModel,
    step_size: Scalar,
    temperature: Scalar,
) -> optax.GradientTransformation:
    scale = jnp.sqrt(2.0 * step_size * temperature)
    jitter = add_noise(key, noise=noise, scale=scale, relative=relative)
    step = optax.chain(scale_by_steepest(threat), optax.scale_by_learning_rate(step_size))
    return optax.chain(jitter, step) if place == "inside" else optax.chain(step, jitter)


# Made once: a static option must be the same object in every call, or each call would recompile.
_OPTIMIZERS: dict[tuple[str, str, bool], OptimizerFn] = {
    kind: partial(_optimizer, *kind) for kind in itertools.product(NOISES, PLACES, (False, True))
}


def langevin(
    threat: ThreatModel,
    *,
    step_size: Scalar,
    steps: int,
    temperature: Scalar,
    noise: str = "laplace",
    place: str = "inside",
    relative: bool = False,
    start: Start = starts.uniform,
    loss: Loss = losses.log_error_probability,
    keep: Keep = "last",
) -> FirstOrder:
    """Samples perturbations of high loss: z <- P(z + a steepest(grad U + sqrt(2 a T) xi)).

    U = log l_pert; by default log(1 - p_y). With temperature 0 the drift is PGD's, because
    grad log(1 - p_y) is a positive multiple of the cross-entropy gradient: p / (1 - p) times it, a
    ninth in an untrained network of 10 classes. An absolute temperature that a trained network
    does not feel can drown the gradient of an untrained one and leave no attack; a relative one
    means the same at every time and for every network. DALE, Algorithm 1 lines 4-7 and eq. 10.

    Args:
      threat: the set.
      step_size: a, in the threat's norm.
      steps: L.
      temperature: T >= 0; the noise has scale sqrt(2 a T) on the per-example gradient. The
        released code's coefficients c = sqrt(2 a T) lie between 1e-5 and 1e-2.
      noise: "laplace" (the paper) or "gaussian".
      place: "inside" the steepest direction (the paper), or "outside": added to the step after
        it, in pixel units (the released code's Gaussian form).
      relative: the scale is sqrt(2 a T) times the example's own mean |gradient entry| instead,
        drawn anew at every step (not in the paper); for noise inside the direction.
      start: uniform, as `pgd`; the paper starts at the clean point, the released code at
        x + 1e-3 N(0, I).
      loss: U, from logits and label.
      keep: "last", as it is a sampler, or "best"; see `first_order`.

    Raises:
      ValueError: an unknown noise or place, relative noise outside the direction, or what
        `first_order` raises.
    """
    checks.choice("noise", noise, NOISES)
    checks.choice("place", place, PLACES)
    if relative and place != "inside":
        raise ValueError(
            f"relative=True measures noise by the gradient, but place={place!r} adds it in pixel "
            "units; use place='inside', or relative=False"
        )
    return first_order(
        threat,
        _OPTIMIZERS[noise, place, relative],
        {"step_size": step_size, "temperature": temperature},
        steps=steps,
        start=start,
        loss=loss,
        keep=keep,
        scales=("step_size",),
    )
