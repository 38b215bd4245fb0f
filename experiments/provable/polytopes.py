"""The set of outputs over a ball, and convex sets around it: Wong's thesis, section 3.2.2."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.spatial import ConvexHull, HalfspaceIntersection

from jaxrobust.duals.bounds import lower_bounds
from jaxrobust.threats import Linf
from jaxrobust.types import Array

from .toy import METHODS, Params, logits_fn

DIRECTIONS = 64
SIDE = 80
"""Points on a side of the grid that covers the ball."""


class Polytope(NamedTuple):
    """What two logits do over a ball, and how far bounds let them go."""

    outputs: np.ndarray
    """`[SIDE, SIDE, 2]`: logits on a grid that covers the ball."""
    outer: np.ndarray
    """`[V, 2]`: corners of the convex outer bound, counterclockwise."""
    box: np.ndarray
    """`[2, 2]`: least and largest logits by layerwise intervals (section 3.2.3)."""


def polygon(normals: np.ndarray, offsets: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Corners `[V, 2]`, counterclockwise, of {z : normals z >= offsets} around the point `inside`.

    Raises:
      ValueError: the half planes leave `inside` out or on their edge, or do not bound a polygon.
    """
    slack = normals @ inside - offsets
    if not slack.min() > 0:
        raise ValueError(
            f"the point {inside} must lie inside all half planes, got a slack of {slack.min():.3g}"
        )
    # Around the origin and scaled to 1, so that Qhull's tolerances suit polygons of any size.
    scale = slack.max()
    planes = np.column_stack([-normals, -slack / scale])
    corners = HalfspaceIntersection(planes, np.zeros(2)).intersections
    if not np.isfinite(corners).all():
        raise ValueError("the half planes do not bound a polygon; their normals must surround 0")
    return inside + scale * corners[ConvexHull(corners).vertices]


def area(corners: np.ndarray) -> float:
    """Area of the convex hull of points `[V, 2]`."""
    return float(ConvexHull(corners).volume)


def polytopes(params: Params, x: np.ndarray, radii: np.ndarray) -> list[Polytope]:
    """The polytopes of a network around `x` at every radius, with the bounds of the thesis."""
    outputs, bounds, boxes = (np.asarray(v, np.float64) for v in _measured(params, x, radii))
    circle = np.asarray(_circle())
    center = np.asarray(logits_fn(params)(jnp.asarray(x)), np.float64)
    return [
        Polytope(image, polygon(circle, lower, center), np.stack([box[:2], -box[2:]]))
        for image, lower, box in zip(outputs, bounds, boxes, strict=True)
    ]


def _circle() -> Array:
    angles = jnp.linspace(0.0, 2 * jnp.pi, DIRECTIONS, endpoint=False)
    return jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1)


@jax.jit
def _measured(params: Params, x: Array, radii: Array) -> tuple[Array, Array, Array]:
    f = logits_fn(params)
    line = jnp.linspace(-1.0, 1.0, SIDE)
    grid = jnp.stack(jnp.meshgrid(line, line), axis=-1)
    ends = jnp.concatenate([jnp.eye(2), -jnp.eye(2)])

    def at(radius: Array) -> tuple[Array, Array, Array]:
        bound = functools.partial(lower_bounds, f, x, threat=Linf(radius))
        outputs = jax.vmap(jax.vmap(lambda d: f(x + radius * d)))(grid)
        outer = bound(C=_circle(), methods=METHODS)
        return outputs, outer, bound(C=ends, methods=("interval",))

    return jax.vmap(at)(radii)
