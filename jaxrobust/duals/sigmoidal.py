"""Lines around smooth activations: tanh (convex, then concave) and softplus (convex)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrobust.duals.lines import Lines, chord
from jaxrobust.types import Array

_BISECTIONS = 30
_FLAT = -20.0
"""Below, tanh is constant in float64 too."""


def middle(l: Array, u: Array) -> Array:  # noqa: E741
    """alpha = 1/2: the tangent in the middle of where tangents are sound."""
    return jnp.full_like(l, 0.5)


def _sech2(z: Array) -> Array:
    return 1 - jnp.tanh(z) ** 2


def _overshoot(point: Array, u: Array) -> Array:
    """How far the tangent to tanh at `point` lies above tanh at u."""
    return jnp.tanh(point) + _sech2(point) * (u - point) - jnp.tanh(u)


def _last_tangent(l: Array, u: Array) -> Array:  # noqa: E741
    """The largest point whose tangent to tanh stays below it on [l, u], if the one at l does.

    That is u itself where u <= 0, else the negative point whose tangent passes through
    (u, tanh u), by bisection rounded down: any smaller point is sound as well. Not differentiated.
    """
    l, u = jax.lax.stop_gradient((l, u))  # noqa: E741

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        point = (low + high) / 2
        sound = _overshoot(point, u) <= 0
        return jnp.where(sound, point, low), jnp.where(sound, high, point)

    ends = (jnp.maximum(l, _FLAT), jnp.zeros_like(l))
    return jnp.where(u <= 0, u, jax.lax.fori_loop(0, _BISECTIONS, halve, ends)[0])


def _tanh_below(l: Array, u: Array, alpha: Array) -> tuple[Array, Array]:  # noqa: E741
    """Slope and intercept of a line below tanh on [l, u]: a tangent where one is, else the chord.

    A tangent at a negative point is below the convex part (z <= 0), and below the concave part if
    it is below its end u. Where not even the tangent at l is, tanh starts above the chord.
    """
    straight = (l >= 0) | ((u > 0) & (_overshoot(l, u) > 0))
    first = jnp.maximum(l, _FLAT)
    point = first + alpha * (_last_tangent(l, u) - first)
    slope = _sech2(point)
    chord_slope, chord_intercept, _ = chord(l, u, jnp.tanh(l), jnp.tanh(u))
    intercept = jnp.where(straight, chord_intercept, jnp.tanh(point) - slope * point)
    return jnp.where(straight, chord_slope, slope), intercept


def tanh_lines(l: Array, u: Array, alpha: Array | None) -> Lines:  # noqa: E741
    """Lines around tanh on [l, u].

    alpha None: both with the least slope that tanh has on [l, u], through (l, tanh l) and
    (u, tanh u) (Singh et al. 2018, "Fast and effective robustness certification"). Otherwise
    tangents, moved by alpha from the near end of [l, u] to the last sound point (Zhang et al.
    2018, CROWN, section 3.3); where there are none, the chord.
    """
    if alpha is None:
        slope = jnp.minimum(_sech2(l), _sech2(u))
        return Lines(slope, jnp.tanh(l) - slope * l, slope, jnp.tanh(u) - slope * u)
    lower_slope, lower_intercept = _tanh_below(l, u, alpha)
    # tanh is odd
    upper_slope, upper_intercept = _tanh_below(-u, -l, alpha)
    return Lines(lower_slope, lower_intercept, upper_slope, -upper_intercept)


def log1p(z: Array) -> Array:
    """log(1 + z) to a few roundings; XLA's in float64 is off by a hundred near 0.

    Near 0 the series of 2 artanh(z / (2 + z)), of which 1 / 3 is the largest argument.
    """
    near = jnp.abs(z) < 0.5
    small = jnp.where(near, z, 0)
    ratio = small / (2 + small)
    square, series = ratio * ratio, jnp.zeros_like(z)
    for odd in range(35, 0, -2):
        series = series * square + 1 / odd
    return jnp.where(near, 2 * ratio * series, jnp.log(jnp.where(near, 1, 1 + z)))


def softplus(z: Array) -> Array:
    """log(1 + e^z)."""
    return jnp.maximum(z, 0) + log1p(jnp.exp(-jnp.abs(z)))


def softplus_range(l: Array, u: Array) -> tuple[Array, Array]:  # noqa: E741
    """softplus never falls."""
    return softplus(l), softplus(u)


def softplus_lines(l: Array, u: Array, alpha: Array | None) -> Lines:  # noqa: E741
    """Lines around softplus: the chord above, the tangent at l + alpha (u - l) below."""
    low, high = softplus(l), softplus(u)
    upper, _, above = chord(l, u, low, high)
    if alpha is None:
        # the point whose tangent is parallel to the chord
        point = jnp.clip(jax.scipy.special.logit(jnp.clip(upper, 0, 1)), l, u)
        lower = upper
    else:
        point = l + alpha * (u - l)
        lower = jax.nn.sigmoid(point)
    below = softplus(point) - lower * point
    return Lines(lower, below, upper, above)
