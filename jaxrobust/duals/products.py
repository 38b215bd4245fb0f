"""Planes around the product of two numbers on a rectangle (McCormick 1976)."""

from __future__ import annotations

import functools

import jax.numpy as jnp

from jaxrobust.duals.lines import Lines
from jaxrobust.types import Array


def product(pair: Array) -> Array:
    """x y of the pair (x, y) along the first axis."""
    return pair[0] * pair[1]


def product_lines(l: Array, u: Array, alpha: Array | None) -> Lines:  # noqa: E741
    """Planes below and above x y: slopes of the pair's shape, intercepts of the product's.

    Two planes are tight below, through (l_x, l_y) and (u_x, u_y), and two above; alpha of the pair
    (one for each side) leads from one to the other. x y minus a plane is least at a corner, so that
    any slopes have their intercept from there.
    """
    if alpha is None:
        lower = upper = (l / 2 + u / 2)[::-1]
    else:
        below, above = alpha
        # the slope in x is an end of y, and the slope in y one of x
        lower = jnp.stack([_between(l[k], u[k], below) for k in (1, 0)])
        upper = jnp.stack([_between(u[1], l[1], above), _between(l[0], u[0], above)])
    least, most = _gaps(l, u, lower)[0], _gaps(l, u, upper)[1]
    return Lines(lower, least, upper, most)


def product_range(l: Array, u: Array) -> tuple[Array, Array]:  # noqa: E741
    """The least and largest product."""
    return _gaps(l, u, jnp.zeros_like(l))


def _gaps(l: Array, u: Array, slope: Array) -> tuple[Array, Array]:  # noqa: E741
    """The least and the largest of x y - slope . (x, y) over the corners."""
    corners = [x * y - slope[0] * x - slope[1] * y for x in (l[0], u[0]) for y in (l[1], u[1])]
    return functools.reduce(jnp.minimum, corners), functools.reduce(jnp.maximum, corners)


def _between(start: Array, end: Array, share: Array) -> Array:
    return (1 - share) * start + share * end
