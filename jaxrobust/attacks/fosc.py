"""First-order stationary condition: how far a perturbed point is from converged."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrobust import losses
from jaxrobust.threats.box import numbers
from jaxrobust.threats.linf import Linf
from jaxrobust.types import Array, LogitsFn, Loss, ThreatModel


def fosc(threat: ThreatModel, x: Array, z: Array, gradient: Array) -> Array:
    """c(z) = max over the ball around `x` of `<z' - z, g>` = radius ||g||_dual - `<z - x, g>`.

    0 when `z` is a first-order stationary maximizer over the ball, larger when it is not; never
    negative (up to rounding) inside the ball. FOSC (Wang et al. 2019), eq. 4; any norm. Measured
    from the clean example (the released code measures from the random start, which can be
    negative). Ignores the pixel box: points clipped by it keep c > 0; see `fosc_box`.

    Args:
      threat: the ball around `x`.
      x: the clean example, `[...]`.
      z: the point to measure, `[...]`.
      gradient: that of the per-example loss (never a batch mean: that rescales c) at `z`, `[...]`.

    Returns:
      c(z), a scalar in units of the loss.
    """
    radius = jnp.asarray(threat.radius, gradient.dtype)
    reach = (
        threat.dual_norm(radius * gradient) if radius.ndim else radius * threat.dual_norm(gradient)
    )
    return reach - jnp.sum((z - x) * gradient)


def fosc_box(threat: Linf, x: Array, z: Array, gradient: Array) -> Array:
    """`fosc` over ball and pixel box for a linf threat: 0 also where the box stops the ascent.

    max over z' in [max(x - r, lower), min(x + r, upper)] of `<z' - z, g>`, by coordinates.

    Args:
      threat: the ball around `x` and the pixel box.
      x: the clean example, `[...]`.
      z: the point to measure, `[...]`.
      gradient: that of the per-example loss at `z`, `[...]`.

    Returns:
      The maximum, a scalar in units of the loss.

    Raises:
      TypeError: another norm, whose ball is no product of intervals.
    """
    if not isinstance(threat, Linf):
        raise TypeError(f"fosc_box needs a Linf threat, got {type(threat).__name__}; use fosc")
    radius, lower, upper = numbers(threat, x)
    top = jnp.minimum(x + radius, upper) - z
    bottom = jnp.maximum(x - radius, lower) - z
    return jnp.sum(jnp.maximum(top * gradient, bottom * gradient))


def fosc_at(
    threat: ThreatModel,
    f: LogitsFn,
    x: Array,
    y: Array,
    z: Array,
    *,
    loss: Loss = losses.cross_entropy,
) -> Array:
    """`fosc` of the point `z` under classifier `f` and `loss`: one forward and backward pass.

    Args:
      threat: the ball around `x`.
      f: the classifier of one example.
      x: the clean example, `[...]`.
      y: the label, an integer scalar.
      z: the point to measure, `[...]`.
      loss: (logits `[K]`, label) -> scalar.

    Returns:
      c(z) of `fosc`, a scalar in units of the loss.
    """
    return fosc(threat, x, z, jax.grad(lambda point: loss(f(point), y))(z))
