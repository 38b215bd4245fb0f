"""The best point of a set for a linear function, which Frank-Wolfe steps toward."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrobust.float_bisection import largest_where
from jaxrobust.threats.box import numbers, require_one_shape, share_of
from jaxrobust.threats.l1 import L1
from jaxrobust.threats.l2 import L2
from jaxrobust.threats.linf import Linf
from jaxrobust.types import Array


def price(threat: L1 | L2, gain: Array, room: Array) -> Array:
    """What the radius of a ball costs whose points gain `gain`.t, 0 <= t <= room, ||t|| <= 1.

    Args:
      threat: says which norm.
      gain: `[...]`, nonnegative.
      room: `[...]`, nonnegative and finite.

    Returns:
      The least float at which the coordinates that still pay it fit into the ball: for l1 those of
      larger gain, by all of their room; for l2 all of them, by gain / price in their room. Next to
      0 where the box alone binds. Not differentiable.
    """
    gain, room = jax.lax.stop_gradient((gain, room))
    least = jnp.finfo(gain.dtype).tiny

    def spends(asked: Array) -> Array:
        if isinstance(threat, L1):
            return jnp.sum(jnp.where(gain > asked, room, 0)) > 1
        t = jnp.minimum(gain / jnp.maximum(asked, least), room)
        return jnp.sum(t * t) > 1

    # at the top, the ball alone decides
    top = jnp.max(gain) if isinstance(threat, L1) else jnp.sqrt(jnp.sum(gain * gain))
    return jnp.nextafter(largest_where(spends, top), jnp.full_like(top, jnp.inf))


def extreme(threat: Linf | L2 | L1, x: Array, gradient: Array) -> Array:
    """The point z of ball and pixel box around `x` that maximizes `<gradient, z>`, up to rounding.

    For linf each coordinate goes to its end. For l1 the coordinates of largest gain go to theirs
    until the radius is spent, those of equal gain alike. For l2 they go by gain / price, or to the
    end of the box.

    Args:
      threat: the set.
      x: the clean example, `[...]`, in the box.
      gradient: `[...]`; NaN entries count as 0.

    Returns:
      The point `[...]`; coordinates of gradient 0 stay. Not differentiable.

    Raises:
      ValueError: shapes that differ.
    """
    require_one_shape(x, gradient, names=("x", "gradient"))
    gradient = jax.lax.stop_gradient(jnp.nan_to_num(gradient))
    radius, lower, upper = numbers(threat, x)
    sign = jnp.sign(gradient)
    if isinstance(threat, Linf):
        return jnp.clip(x + radius * sign, lower, upper)
    gain = jnp.abs(radius * (gradient / jnp.maximum(jnp.max(jnp.abs(gradient)), 1e-30)))
    ends = jnp.where(sign > 0, upper - x, x - lower)
    # no coordinate moves further than the ball, nor one that is held or has nothing to gain
    room = jnp.clip(jnp.where(gain > 0, share_of(ends, radius + 0 * x), 0), 0, 1)
    return jnp.clip(x + radius * sign * _moves(threat, gain, room), lower, upper)


def _moves(threat: L1 | L2, gain: Array, room: Array) -> Array:
    """The t of the largest gain.t over 0 <= t <= room, ||t|| <= 1."""
    asked = price(threat, gain, room)
    if isinstance(threat, L1):
        full, last = gain > asked, (gain == asked) & (gain > 0)
        rest = jnp.maximum(1 - jnp.sum(jnp.where(full, room, 0)), 0)
        share = rest / jnp.maximum(jnp.sum(jnp.where(last, room, 0)), 1e-30)
        return jnp.where(full, room, jnp.where(last, room * jnp.minimum(share, 1), 0))
    # What the capped coordinates leave is shared by the others in proportion to their gains: one
    # division more than the search, and exact to rounding.
    capped = gain >= asked * room
    left = jnp.maximum(1 - jnp.sum(jnp.where(capped, room * room, 0)), 0)
    free = jnp.where(capped, 0, gain)
    scale = jnp.sqrt(left / jnp.maximum(jnp.sum(free * free), 1e-30))
    return jnp.where(capped, room, jnp.minimum(scale * free, room))
