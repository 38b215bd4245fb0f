"""Where an attack starts: `(key, threat, x) -> z`, always inside the threat set."""

from __future__ import annotations

import jax

from jaxrobust.types import Array, Key, Scalar, ThreatModel


def clean(key: Key, threat: ThreatModel, x: Array) -> Array:
    """The clean example itself."""
    del key, threat
    return x


def uniform(key: Key, threat: ThreatModel, x: Array) -> Array:
    """Uniform in the ball, then clipped to the pixel box."""
    return threat.sample(key, x)


def gaussian(key: Key, threat: ThreatModel, x: Array, scale: Scalar = 1e-3) -> Array:
    """P(x + scale N(0, I)), the start of TRADES, MART and the released DALE code."""
    return threat.project(x, x + scale * jax.random.normal(key, x.shape, x.dtype))
