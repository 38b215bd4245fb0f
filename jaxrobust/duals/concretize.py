"""How far a linear function can rise over a threat set."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.duals.rounding import grown, tiny
from jaxrobust.threats import L1, L2, Linf, Union
from jaxrobust.types import Array, ThreatModel


def check_ball(threat: ThreatModel, x: Array) -> None:
    """Raises ValueError unless duals know the set: a norm ball or a union of them around `x`."""
    members = threat.members if isinstance(threat, Union) else (threat,)
    for member in members:
        if not isinstance(member, Linf | L2 | L1):
            raise ValueError(
                f"duals bound Linf, L2 and L1 balls and their unions, got {type(member).__name__}"
            )
        shape = np.shape(member.radius)
        if shape not in ((), jnp.shape(x)):
            raise ValueError(
                f"radius must be a number or one per coordinate of x {jnp.shape(x)}, got shape "
                f"{shape}; map over a stack of sets with jax.vmap"
            )


def spread(threat: ThreatModel, x: Array, *, boxed: bool) -> Array:
    """How far each coordinate can move, of `x`'s shape."""
    if isinstance(threat, Union):
        return jnp.max(jnp.stack([spread(m, x, boxed=boxed) for m in threat.scaled]), axis=0)
    down, up = reach(threat, x, boxed=boxed)
    return grown(jnp.maximum(up, -down), 1)


def reach(threat: Any, x: Array, *, boxed: bool) -> tuple[Array, Array]:
    """How far down and up each coordinate can move, of `x`'s shape."""
    radius = jnp.broadcast_to(jnp.asarray(threat.radius, x.dtype) + tiny(x.dtype), x.shape)
    if not boxed:
        return -radius, radius
    # x lies in the box; the clips keep rounding from pushing it out
    down = jnp.minimum(jnp.maximum(-radius, jnp.asarray(threat.lower, x.dtype) - x), 0)
    return down, jnp.maximum(jnp.minimum(radius, jnp.asarray(threat.upper, x.dtype) - x), 0)


def support(threat: ThreatModel, x: Array, direction: Array, *, boxed: bool = False) -> Array:
    """max `<direction, z - x>` over the threat set around `x`: eps times the dual norm.

    Raised by what rounding can take away (`rounding`), for the set whose numbers are those of
    `x`'s dtype. Differentiable almost everywhere.

    Args:
      threat: a ball or a union of balls. A radius of `x`'s shape scales each coordinate.
      x: the clean example, of any shape.
      direction: of `x`'s shape.
      boxed: whether the pixel box counts too: exactly for Linf, where the bound is u0.nu_+ +
        l0.nu_- (Wong's thesis, section 3.2, the released code's `bounded_input`); for L2 and L1
        by the smaller of the ball's and the box's value, an upper bound.

    Returns:
      The maximum, or an upper bound of it, a scalar of at least 0.

    Raises:
      ValueError: another set, a radius that is neither a number nor of `x`'s shape, or a
        `direction` that is not of `x`'s shape.
    """
    check_ball(threat, x)
    if jnp.shape(direction) != jnp.shape(x):
        raise ValueError(
            f"direction must have x's shape {jnp.shape(x)}, got {jnp.shape(direction)}"
        )
    if isinstance(threat, Union):
        values = [support(m, x, direction, boxed=boxed) for m in threat.scaled]
        return jnp.max(jnp.stack(values))
    radius = jnp.asarray(threat.radius, x.dtype) + tiny(x.dtype)
    ball = grown(threat.dual_norm(radius * direction), direction.size)
    if not boxed:
        return ball
    down, up = reach(threat, x, boxed=True)
    far = jnp.sum(up * jax.nn.relu(direction) - down * jax.nn.relu(-direction))
    box = grown(far, direction.size)
    return box if isinstance(threat, Linf) else jnp.minimum(ball, box)
