"""Where an attack starts: `(key, threat, x) -> z`, inside the threat set but for `unclipped`."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from jaxrobust.types import Array, Key, Scalar, ThreatModel


def clean(key: Key, threat: ThreatModel, x: Array) -> Array:
    """The clean example itself.

    Args:
      key: not used.
      threat: not used.
      x: the clean example, `[...]`.

    Returns:
      `x`.
    """
    del key, threat
    return x


def uniform(key: Key, threat: ThreatModel, x: Array) -> Array:
    """A random point of the set, as its own `sample` draws it.

    For `Linf`, `L2` and `L1` that is uniform in the ball, then clipped to the pixel box. For a
    `Union` it is such a point of a member drawn uniformly, so that small members are as likely as
    large ones. For `Wasserstein` it is the projection of the image with uniform noise on its
    pixels, whose law is not uniform.

    Args:
      key: the random key.
      threat: the set around `x`, whose `sample` is drawn from.
      x: the clean example, `[...]`.

    Returns:
      A point `[...]` of the set.
    """
    return threat.sample(key, x)


def unclipped(key: Key, threat: ThreatModel, x: Array) -> Array:
    """Uniform in the ball, the pixel box left aside: the first gradient may be taken outside it.

    FGSM-RS of Wong's thesis, Algorithm 7, and its released MNIST code. Clipped, half of the noise
    on black and white pixels is lost. The point stepped to is in the set again: take `keep="last"`,
    as the start itself could be the best point.

    Args:
      key: the random key.
      threat: a ball with a pixel box.
      x: the clean example, `[...]`.

    Returns:
      A point `[...]` of the ball, which may lie outside the pixel box.

    Raises:
      ValueError: a set whose box cannot be left aside, such as a `Union` or `Wasserstein`.
    """
    fields = dataclasses.fields(threat) if dataclasses.is_dataclass(threat) else ()
    if not {"lower", "upper"} <= {field.name for field in fields}:
        raise ValueError(
            f"unclipped leaves aside the pixel box of a Linf, L2 or L1 ball, and "
            f"{type(threat).__name__} has none of its own to leave; start at attacks.uniform"
        )
    return dataclasses.replace(threat, lower=-jnp.inf, upper=jnp.inf).sample(key, x)


def gaussian(key: Key, threat: ThreatModel, x: Array, scale: Scalar = 1e-3) -> Array:
    """P(x + scale N(0, I)), the start of TRADES, MART and the released DALE code.

    Args:
      key: the random key.
      threat: the set around `x`, whose projection P is.
      x: the clean example, `[...]`.
      scale: the standard deviation of the noise, in pixel units.

    Returns:
      A point `[...]` of the set.
    """
    return threat.project(x, x + scale * jax.random.normal(key, x.shape, x.dtype))
