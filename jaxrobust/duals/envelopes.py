"""Lines around any function that is convex or concave on known pieces of the axis.

Below h on [l, u] lies its convex envelope, and below that its supporting lines. Their slopes fill
the interval from the least slope of a chord at l to the largest at u, from which alpha picks one.
The intercept of a slope s, however it came about, is then

  min over [l, u] of h(z) - s z,

found at the ends of pieces or, by bisection of the slope h', inside a convex piece, where tangents
at both ends of the last bracket bound it from below: a slope that is not the best, or a bisection
that has not converged, makes a line looser, never wrong. Lines above are lines below -h.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust.duals.lines import Lines, chord, thin
from jaxrobust.types import Array

_TOUCHES = 24
"""Bisections for slopes, which need not be exact."""
_AT_END = 1e-5
"""The share of an interval beside its ends that bisections for slopes do not tell from these."""
_HALVINGS = 40
"""Bisections for intercepts."""
_ROUNDINGS = 8
"""Machine epsilons that h's value is off by, those of a displaced argument among them."""

Piece = tuple[Array, Array, Array | int]
"""Its ends, within [l, u], and the sign of its curvature: 1 convex, -1 concave, 0 straight."""


class Curve(NamedTuple):
    """A function of one number, its slope and its pieces."""

    value: Callable[[Array], Array]
    """h(z), computed as if z and the result were off by a few machine epsilons."""
    slope: Callable[[Array], Array]
    """h'(z); at a kink, that of the piece beside it which is not straight."""
    pieces: Callable[[Array, Array], list[Piece]]
    """(l, u) -> the pieces of [l, u] in order; some may be empty."""
    beyond: Callable[[Array, Array], Array] | None = None
    """(l, u) -> whether this is a box with constant lines, since h is not defined there or its
    pieces are not known ..."""
    limits: tuple[float, float] = (-jnp.inf, jnp.inf)
    """... and what these lines are."""
    least: float = -jnp.inf
    """h is nowhere less."""


def pieces(bends: tuple[float, ...], signs: tuple[int, ...]) -> Callable:
    """The `Curve.pieces` of a function with these inflections and kinks, and signs between them."""

    def between(l: Array, u: Array) -> list[Piece]:  # noqa: E741
        cuts = [l, *(jnp.clip(jnp.asarray(b, l.dtype), l, u) for b in bends), u]
        return list(zip(cuts[:-1], cuts[1:], signs, strict=True))

    return between


def _points_first(h: Callable) -> Callable:
    """Lets numbers of the units' shape meet several for each unit, along axes before."""

    @functools.wraps(h)
    def lenient(*args: Any) -> Any:
        with jax.numpy_rank_promotion("allow"):
            return h(*args)

    return lenient


@_points_first
def curve_lines(curve: Curve, l: Array, u: Array, alpha: Array | None) -> Lines:  # noqa: E741
    """Lines around the curve on [l, u].

    alpha None: both with the slope of the chord. Otherwise alpha leads from the flattest supporting
    line at l over one near the middle (alpha = 1/2) to the steepest at u, below and above.
    """
    parts = _parts(curve, l, u)
    if alpha is None:
        lower = upper = _finite(chord(l, u, curve.value(l), curve.value(u))[0])
    else:
        lower, upper = (_mixed(slopes, alpha) for slopes in _slopes(curve, parts))
    below, above = _intercepts(curve, parts, lower, upper)
    return _limited(curve, l, u, Lines(lower, below, upper, above))


@_points_first
def curve_range(curve: Curve, l: Array, u: Array) -> tuple[Array, Array]:  # noqa: E741
    """Bounds of the curve's values on [l, u], rounding included."""
    flat = jnp.zeros_like(l)
    low, high = _intercepts(curve, _parts(curve, l, u), flat, flat)
    lines = _limited(curve, l, u, Lines(flat, low, flat, high))
    return jnp.maximum(lines.lower_intercept, curve.least), lines.upper_intercept


class _Parts(NamedTuple):
    """[l, u] in pieces, those that bend along the first axis: what is evaluated is so at once."""

    l: Array  # noqa: E741
    u: Array
    corners: Array
    """[corners, *shape]: where pieces meet."""
    a: Array
    """[bent, *shape]: ends of the bent pieces, and in `signs` how they bend."""
    b: Array
    signs: Array

    def bent(self, sign: int) -> Array:
        """bool [bent, *shape]: which pieces are there, and convex (1) or concave (-1)."""
        return (sign * self.signs > 0) & (self.a < self.b)


def _parts(curve: Curve, l: Array, u: Array) -> _Parts:  # noqa: E741
    found = curve.pieces(l, u)
    bent = [piece for piece in found if not isinstance(piece[2], int) or piece[2] != 0]

    def stacked(values: list) -> Array:
        return jnp.stack([jnp.broadcast_to(jnp.asarray(v, l.dtype), l.shape) for v in values])

    corners = stacked([b for _, b, _ in found[:-1]]) if len(found) > 1 else l[None][:0]
    a, b, signs = (stacked([piece[i] for piece in bent]) for i in range(3))
    return _Parts(l, u, corners, a, b, signs)


def _limited(curve: Curve, l: Array, u: Array, lines: Lines) -> Lines:  # noqa: E741
    """The lines, but constant ones on boxes beyond what is known."""
    if curve.beyond is None:
        return lines
    beyond = curve.beyond(l, u)
    lower = jnp.where(beyond, 0, lines.lower_slope)
    parallel = lines.lower_slope is lines.upper_slope
    return Lines(
        lower,
        jnp.where(beyond, curve.limits[0], lines.lower_intercept),
        lower if parallel else jnp.where(beyond, 0, lines.upper_slope),
        jnp.where(beyond, curve.limits[1], lines.upper_intercept),
    )


def _mixed(slopes: tuple[Array, Array, Array], alpha: Array) -> Array:
    """From the first slope at alpha = 0 over the second at 1/2 to the third at 1."""
    first, middle, last = slopes
    start, end = 2 * jnp.minimum(alpha, 0.5), 2 * jnp.maximum(alpha - 0.5, 0)
    # weights of slopes that may be large: no differences
    return (1 - start) * first + (start - end) * middle + end * last


Slopes = tuple[Array, Array, Array]


def _slopes(curve: Curve, parts: _Parts) -> tuple[Slopes, Slopes]:
    """Slopes of the supporting lines that touch h near l, near the middle and near u.

    Of those below and of those above.
    """
    l, u, corners, a, b, signs = parts  # noqa: E741
    ends = jnp.stack([l, u])
    center = l / 2 + u / 2
    values, steep = curve.value(ends), curve.slope(jnp.stack([l, u, center]))
    least, most = jnp.stack([l, u])[:, None], values[:, None]

    def earlier(z: Array) -> Array:
        """[2, bent, *shape]: whether the last touching point, seen from l and from u, is behind."""
        over = signs * (curve.value(z) + curve.slope(z) * (least - z) - most)
        return jnp.stack([over[0] > 0, over[1] <= 0])

    before, behind = _bisected(earlier, jnp.stack([a, a]), jnp.stack([b, b]), _TOUCHES)
    points = jnp.concatenate([corners, corners, behind[0], before[1]])
    heights = curve.value(points)
    n, k = len(corners), len(a)
    from_l = jnp.concatenate([points[:n], points[2 * n : 2 * n + k]])
    from_u = jnp.concatenate([points[n : 2 * n], points[2 * n + k :]])
    high_l = jnp.concatenate([heights[:n], heights[2 * n : 2 * n + k]])
    high_u = jnp.concatenate([heights[n : 2 * n], heights[2 * n + k :]])
    # a line that touches at an end has the slope there, also for derivatives
    at_end = [thin(l, u) | (far <= _AT_END * (u - l)) for far in (from_l - l, u - from_u)]
    at_l = jnp.where(at_end[0], steep[0], chord(l, from_l, values[0], high_l)[0])
    at_u = jnp.where(at_end[1], steep[1], chord(from_u, u, high_u, values[1])[0])
    across = chord(l, u, values[0], values[1])[0]
    inside = (l < corners) & (corners < u)
    # between two pieces of a kind, the envelope leads from one to the next
    bridge = chord(b[:-2], a[2:], *curve.value(jnp.stack([b[:-2], a[2:]])))[0] if k > 2 else b[:0]

    def side(sign: int) -> Slopes:
        there = jnp.concatenate([inside, parts.bent(sign)])
        first, start = _extreme(sign, across, u, there, at_l, from_l)
        last, end = _extreme(-sign, across, l, there, at_u, from_u)
        middle, bent = across, parts.bent(sign)
        for i, slope in enumerate(bridge):
            both = bent[i] & bent[i + 2] & (b[i] <= center) & (center <= a[i + 2])
            middle = jnp.where(both, slope, middle)
        held = bent & (a <= center) & (center <= b)
        middle = jnp.where(jnp.any(held, axis=0), steep[2], middle)
        first, middle, last = map(_finite, (first, middle, last))
        middle = sign * jnp.clip(sign * middle, sign * first, sign * last)
        middle = jnp.where(center <= start, first, jnp.where(center >= end, last, middle))
        narrow = thin(l, u)
        return (
            jnp.where(narrow, 0, first),
            jnp.where(narrow, 0, middle),
            jnp.where(narrow, 0, last),
        )

    return side(1), side(-1)


def _extreme(
    sign: int, across: Array, where: Array, there: Array, slopes: Array, points: Array
) -> tuple[Array, Array]:
    """The least (sign 1) or largest slope, that across among them, and where its line touches."""
    for one, slope, point in zip(there, slopes, points, strict=True):
        takes = one & (sign * slope < sign * across)
        across, where = jnp.where(takes, slope, across), jnp.where(takes, point, where)
    return across, where


def _intercepts(curve: Curve, parts: _Parts, lower: Array, upper: Array) -> tuple[Array, Array]:
    """min h(z) - lower z and max h(z) - upper z over [l, u], rounding included."""
    l, u, corners, a, b, signs = parts  # noqa: E741
    eps = jnp.finfo(l.dtype).eps
    asked = jax.lax.stop_gradient(jnp.where(signs > 0, lower, upper))
    before, behind = _bisected(lambda z: signs * curve.slope(z) < signs * asked, a, b, _HALVINGS)
    points = jnp.concatenate([l[None], u[None], corners, before, behind])
    heights, steep = curve.value(points), jax.lax.stop_gradient(curve.slope(points))
    n, k = len(points) - 2 * len(a), len(a)
    # h is convex there: tangents at both ends of the bracket hold from below
    width = behind - before
    falls = jax.nn.relu(signs * (asked - steep[n : n + k]))
    rises = jax.nn.relu(signs * (steep[n + k :] - asked))

    def side(sign: int, slope: Array) -> Array:
        """The least value of sign h(z) - sign slope z."""
        product = slope * points
        size = jnp.abs(heights) + jnp.abs(points * steep) + jnp.abs(product)
        off = jax.lax.stop_gradient(_ROUNDINGS * eps * size)
        least = sign * (heights - product) - off
        inner = jnp.maximum(
            least[n : n + k] - jnp.where(width > 0, falls * width, 0),
            least[n + k :] - jnp.where(width > 0, rises * width, 0),
        )
        inner = jnp.where(parts.bent(sign), inner, jnp.inf)
        return jnp.minimum(jnp.min(least[:n], axis=0), jnp.min(inner, axis=0))

    return side(1, lower), -side(-1, upper)


def _bisected(
    before: Callable[[Array], Array], a: Array, b: Array, halvings: int
) -> tuple[Array, Array]:
    """The bracket in [a, b] of the last point for which `before` holds. Not differentiated."""
    a, b = jax.lax.stop_gradient((a, b))

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        point = jnp.clip(_halfway(low, high), low, high)
        earlier = jax.lax.stop_gradient(before(point))
        return jnp.where(earlier, point, low), jnp.where(earlier, high, point)

    return jax.lax.stop_gradient(jax.lax.fori_loop(0, halvings, halve, (a, b)))


def _halfway(low: Array, high: Array) -> Array:
    """The middle, of orders of magnitude where these differ: brackets may span all floats."""
    near = jnp.minimum(jnp.abs(low), jnp.abs(high))
    far = jnp.maximum(jnp.abs(low), jnp.abs(high))
    apart = (low < 0) & (high > 0)
    sign = jnp.where(high > 0, 1, -1).astype(low.dtype)
    # far goes to its root first where near is 0
    geometric = sign * jnp.sqrt(far) * jnp.where(near > 0, jnp.sqrt(near), 1)
    wide = (far > 4 * near) & ((near > 0) | (far > 16))
    middle = jnp.where(wide, geometric, low / 2 + high / 2)
    return jnp.where(apart, jnp.where(far > 16, 0, low / 2 + high / 2), middle)


def _finite(slope: Array) -> Array:
    return jnp.where(jnp.isfinite(slope), slope, 0)
