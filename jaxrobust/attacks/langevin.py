"""DALE's sampler: projected Langevin steps."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import jax.numpy as jnp
import optax

from jaxrobust import checks, losses
from jaxrobust.attacks import starts
from jaxrobust.attacks.first_order import first_order
from jaxrobust.attacks.transforms import NOISES, add_noise, scale_by_steepest
from jaxrobust.types import Attack, Key, Scalar, ThreatModel

PLACES = ("inside", "outside")


def _optimizer(
    noise: str, place: str, key: Key, threat: ThreatModel, step_size: Scalar, temperature: Scalar
) -> optax.GradientTransformation:
    jitter = add_noise(key, noise=noise, scale=jnp.sqrt(2.0 * step_size * temperature))
    step = optax.chain(scale_by_steepest(threat), optax.scale_by_learning_rate(step_size))
    return optax.chain(jitter, step) if place == "inside" else optax.chain(step, jitter)


# Made once: a static option must be the same object in every call, or each call would recompile.
_OPTIMIZERS = {
    (noise, place): partial(_optimizer, noise, place)
    for noise, place in itertools.product(NOISES, PLACES)
}


def langevin(
    threat: ThreatModel,
    *,
    step_size: Scalar,
    steps: int,
    temperature: Scalar,
    noise: str = "laplace",
    place: str = "inside",
    **options: Any,
) -> Attack:
    """Samples perturbations of high loss: z <- P(z + a steepest(grad U + sqrt(2 a T) xi)).

    U = log l_pert; by default log(1 - p_y). With temperature 0 the drift is PGD's, because
    grad log(1 - p_y) is a positive multiple of the cross-entropy gradient. DALE, Algorithm 1
    lines 4-7 and eq. 10.

    Args:
      threat: the set. step_size: a. steps: L.
      temperature: T >= 0; the noise has scale sqrt(2 a T) on the per-example gradient.
      noise: "laplace" (the paper) or "gaussian".
      place: "inside" the steepest direction (the paper), or "outside": added to the step after
        it, in pixel units (the released code's Gaussian form).
      **options: `start` (default the clean point plus 1e-3 N(0, I), as released; the paper starts
        at the clean point), `loss` (U), `keep` (default "last": it is a sampler).
        See `first_order`.

    Raises:
      ValueError: an unknown noise or place, or what `first_order` raises.
    """
    checks.choice("noise", noise, NOISES)
    checks.choice("place", place, PLACES)
    options = {
        "start": starts.gaussian,
        "loss": losses.log_error_probability,
        "keep": "last",
        **options,
    }
    return first_order(
        threat,
        _OPTIMIZERS[noise, place],
        {"step_size": step_size, "temperature": temperature},
        steps=steps,
        **options,
    )
