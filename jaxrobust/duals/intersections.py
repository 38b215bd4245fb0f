"""How far a linear function can rise over a ball in its pixel box: exact up to rounding."""

from __future__ import annotations

import jax.numpy as jnp

from jaxrobust.duals.concretize import reach, support
from jaxrobust.duals.rounding import grown, tiny
from jaxrobust.threats import L1, L2
from jaxrobust.threats.extremes import price
from jaxrobust.types import Array, ThreatModel


def support_in_box(threat: ThreatModel, x: Array, direction: Array) -> Array:
    """As `concretize.support` with `boxed`, for L2 and L1 balls as small as duality makes it.

    With a_i = |radius_i direction_i| and t_i >= 0 how far coordinate i moves in units of its
    radius, at most room_i in the box, the value is max a.t over ||t|| <= 1 and t <= room, and for
    every 0 <= k <= a at most ||k||_* + (a - k).room. The least has k = min(a, price) for L1 and
    k = min(a, price room) for L2;
    whatever the price, that is an upper bound.

    Returns:
      The maximum or an upper bound of it, rounding included, a scalar of at least 0.
    """
    plain = support(threat, x, direction, boxed=True)
    if not isinstance(threat, L1 | L2):
        return plain
    radius = jnp.asarray(threat.radius, x.dtype) + tiny(x.dtype)
    down, up = reach(threat, x, boxed=True)
    room = jnp.where(direction >= 0, up, -down) / radius
    a = jnp.abs(radius * direction)
    weight = room if isinstance(threat, L2) else jnp.ones_like(a)

    kept = jnp.minimum(a, price(threat, a, room) * weight)
    inner = threat.dual_norm(kept) + jnp.sum((a - kept) * room)
    return jnp.minimum(plain, grown(inner, 2 * a.size))
