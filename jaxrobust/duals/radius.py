"""The largest radius at which a prediction is certified."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import checks
from jaxrobust.duals.certificates import Certificate, certify
from jaxrobust.duals.concretize import check_ball
from jaxrobust.duals.relaxed_network import METHODS
from jaxrobust.types import Array, LogitsFn, Scalar, ThreatModel


class Radius(NamedTuple):
    """A certified radius and its proof."""

    radius: Array
    """0 where nothing is certified, as for a misclassified example; see `certificate.certified`."""
    certificate: Certificate
    """That of the ball of exactly this radius."""


def certified_radius(
    f: LogitsFn,
    x: Array,
    y: Array,
    threat: ThreatModel,
    *,
    upper: Scalar,
    steps: int = 20,
    methods: Sequence[str] = METHODS,
    boxed: bool = False,
    chunk: int | None = None,
    bucket: int | None = None,
) -> Radius:
    """The largest radius, up to `upper`, at which `certify` proves that `f` predicts `y`.

    With y = argmax f(x), a lower bound of the distance to the decision boundary: Wong's thesis,
    eq. 3.29, which takes Newton steps. Here radius 0 and `upper` are tried, then midpoints, so
    that a certificate monotone in the radius is followed to `upper` / 2^steps. It is not always:
    with slopes that follow the boxes a smaller radius may fail in rare cases. The answer is
    therefore always a radius whose own certificate held, though perhaps not the largest.

    Args:
      f, x, y: as in `certify`, one example.
      threat: the kind of ball. A scalar radius is replaced; a radius per coordinate is multiplied,
        so that the answer is the factor, as a union's gauge is.
      upper: largest radius tried, above 0; traced, like all of the threat's numbers.
      steps: of bisection; certificates are computed `steps` + 2 times, by one program.
      methods, boxed, chunk, bucket: see `certify`.

    Returns:
      A `Radius`: `radius`, a scalar in `x`'s dtype, 0 where nothing is certified, in the units of
      the threat's radius, or the factor where that is one per coordinate; and `certificate`, the
      `Certificate` of the ball of exactly this radius, whose `certified` is False where nothing is.

    Raises:
      ValueError: `upper` or `steps` out of range or no single number, or what `certify` raises.

    `vmap` over examples or kinds of balls. Not meant to be differentiated.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxrobust import duals, threats
      >>> w = jnp.array([[1.0, -1.0], [-1.0, 1.0]])
      >>> f = lambda x: w @ jax.nn.relu(x)
      >>> x, y = jnp.array([0.7, 0.3]), jnp.int32(0)
      >>> radius, proof = duals.certified_radius(f, x, y, threats.Linf(1.0), upper=1.0)
      >>> round(float(radius), 2), bool(proof.certified)
      (0.2, True)
    """
    checks.positive("upper", upper)
    if np.shape(upper):
        raise ValueError(f"upper must be one number, got shape {np.shape(upper)}")
    checks.at_least("steps", steps, 1)
    check_ball(threat, x)

    def at(radius: Array) -> Certificate:
        return certify(
            f,
            x,
            y,
            _resized(threat, radius),
            methods=methods,
            boxed=boxed,
            chunk=chunk,
            bucket=bucket,
        )

    def step(i: Array, carry: tuple[Array, Array, Certificate]) -> tuple:
        low, high, best = carry
        tried = jnp.where(i == 0, 0, jnp.where(i == 1, high, low + (high - low) / 2))
        certificate = at(tried)
        held = certificate.certified
        # The first one, at radius 0, stays where none holds.
        best = jax.tree.map(lambda a, b: jnp.where(held | (i == 0), a, b), certificate, best)
        # A failure at radius 0 moves no end: it is the lower one already.
        high = jnp.where(held | (i == 0), high, tried)
        return jnp.where(held, tried, low), high, best

    end = jnp.asarray(upper, x.dtype)
    shape = jax.eval_shape(at, end)
    nothing = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shape)
    carry = (jnp.zeros_like(end), end, nothing)
    radius, _, certificate = jax.lax.fori_loop(0, steps + 2, step, carry)
    return Radius(radius, certificate)


def _resized(threat: ThreatModel, radius: Array) -> ThreatModel:
    if np.shape(threat.radius):
        radius = radius * jnp.asarray(threat.radius, radius.dtype)
    # threat models are dataclasses, which their protocol cannot say
    return dataclasses.replace(cast(Any, threat), radius=radius)
