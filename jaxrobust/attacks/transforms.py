"""Optax transformations that attacks are made of. All act on one example's gradient."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxrobust.types import Array, Key, Scalar, ThreatModel


def scale_by_steepest(threat: ThreatModel) -> optax.GradientTransformation:
    """Replaces a gradient by the unit steepest-descent direction of the threat's norm.

    Chained with `optax.scale_by_learning_rate(a)` it moves the point by `a` in that norm. The
    point must be given as `params` (the l1 step skips coordinates at the box).
    """

    def turned(updates: Any, params: Any) -> Any:
        return -threat.steepest(-updates, params)

    return optax.stateless(turned)


def normalize_by_l1() -> optax.GradientTransformation:
    """g / ||g||_1, zero where the gradient is zero. MI-FGSM (Dong et al. 2018, eq. 6)."""

    def normalize(updates: Any, params: Any) -> Any:
        del params
        g: Array = updates
        total = jnp.sum(jnp.abs(g))
        return g / jnp.where(total == 0, jnp.ones_like(total), total)

    return optax.stateless(normalize)


class NoiseState(NamedTuple):
    """The key of the next draw."""

    key: Key


_DRAWS = {"laplace": jax.random.laplace, "gaussian": jax.random.normal}
NOISES = tuple(_DRAWS)


def add_noise(
    key: Key, *, noise: str, scale: Scalar, relative: bool = False
) -> optax.GradientTransformation:
    """Adds `scale` times standard Laplace or Gaussian noise, a fresh draw per step.

    With `relative` the scale is in units of the mean absolute entry of what is added to, so that
    the share of noise stays the same as a network learns and its gradients shrink or grow.
    (`optax.add_noise` is Gaussian only, with an annealed variance and an integer seed.)
    """
    draw = _DRAWS[noise]

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Array, NoiseState]:
        del params
        now, later = jax.random.split(state.key)
        xi = draw(now, updates.shape, updates.dtype)
        unit = jnp.mean(jnp.abs(updates)) if relative else jnp.ones((), updates.dtype)
        return updates + jnp.asarray(scale, updates.dtype) * unit * xi, NoiseState(later)

    return optax.GradientTransformation(lambda params: NoiseState(key), update)
