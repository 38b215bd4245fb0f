"""Where an attack starts: `(key, threat, x) -> z`, inside the threat set but for `unclipped`."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from jaxrobust.types import Array, Key, Scalar, ThreatModel


def clean(key: Key, threat: ThreatModel, x: Array) -> Array:
    """The clean example itself."""
    del key, threat
    return x


def uniform(key: Key, threat: ThreatModel, x: Array) -> Array:
    """Uniform in the ball, then clipped to the pixel box."""
    return threat.sample(key, x)


def unclipped(key: Key, threat: ThreatModel, x: Array) -> Array:
    """Uniform in the ball, the pixel box left aside: the first gradient may be taken outside it.

    FGSM-RS of Wong's thesis, Algorithm 7, and its released MNIST code. Clipped, half of the noise
    on black and white pixels is lost. The point stepped to is in the set again: take `keep="last"`,
    as the start itself could be the best point.
    """
    return dataclasses.replace(threat, lower=-jnp.inf, upper=jnp.inf).sample(key, x)


def gaussian(key: Key, threat: ThreatModel, x: Array, scale: Scalar = 1e-3) -> Array:
    """P(x + scale N(0, I)), the start of TRADES, MART and the released DALE code."""
    return threat.project(x, x + scale * jax.random.normal(key, x.shape, x.dtype))
