"""Where units bend, and what their relaxations give away: which of them to split, and where."""

from __future__ import annotations

import functools

import jax.numpy as jnp

from jaxrobust.duals.graph import Node
from jaxrobust.duals.relaxations import relaxation
from jaxrobust.duals.relaxed_network import Region
from jaxrobust.duals.subdomains import Domain, flat, split
from jaxrobust.types import Array

_KINKS = {
    "relu": lambda l, u: jnp.zeros_like(l),  # noqa: E741
    "clip": lambda l, u, floor, ceiling: jnp.where((l < floor) & (floor < u), floor, ceiling),  # noqa: E741
}
"""Where a kind bends; all others are split in the middle."""


def _points(node: Node, l: Array, u: Array) -> Array:  # noqa: E741
    if node.kind in _KINKS:
        return _KINKS[node.kind](l, u, *node.args)
    return 0.5 * (l + u)


def _inside(node: Node, l: Array, u: Array) -> Array:  # noqa: E741
    """Whether the point where a unit would be split lies inside of its box."""
    t = _points(node, l, u)
    return (l < t) & (t < u)


def bending(where: Region, lower: Array, upper: Array) -> Array:
    """bool [units]: which may be split, given their boxes."""
    ends = zip(where.graph.nodes, split(where, lower), split(where, upper), strict=True)
    return flat([_inside(node, low, high) for node, low, high in ends])


def scores(where: Region, domain: Domain, nu: Array) -> tuple[Array, Array]:
    """([units], [units]): what a unit's relaxation gives away by this row, and where to split it.

    After BaBSR (Bunel et al. 2020): for a ReLU |nu| u (-l) / (u - l). 0 where nothing is to split.
    """
    found, points = [], []
    for node, l, u, row in zip(  # noqa: E741
        where.graph.nodes,
        *(split(where, v) for v in (domain.lower, domain.upper, nu)),
        strict=True,
    ):
        t, inside = _points(node, l, u), _inside(node, l, u)
        if node.kind == "product":
            drop = jnp.broadcast_to(jnp.prod(u - l, axis=0) / 4, l.shape)
        else:
            drop = _drop(node, l, u, t, inside)
        # a unit that no row meets is split last, not never
        least = jnp.finfo(row.dtype).tiny
        found.append(jnp.where(inside, jnp.maximum(jnp.abs(row) * drop, least), 0))
        points.append(t)
    return flat(found), flat(points)


def _drop(node: Node, l: Array, u: Array, t: Array, inside: Array) -> Array:  # noqa: E741
    """How far the chord misses the function, at a few points."""
    h = functools.partial(apply, node)
    steep = (h(u) - h(l)) / jnp.where(inside, u - l, 1)
    at = [t, 0.5 * (l + t), 0.5 * (t + u)]
    return functools.reduce(jnp.maximum, [jnp.abs(h(l) + steep * (p - l) - h(p)) for p in at])


def apply(node: Node, z: Array) -> Array:
    return relaxation(node.kind).function(z, *node.args)


def scale(where: Region, nu: Array) -> Array:
    """[units]: how large rows are at each node, the unit of its multipliers."""
    means = [
        jnp.full(v.shape, jnp.sum(jnp.abs(v)) / jnp.maximum(jnp.sum(v != 0).astype(v.dtype), 1))
        for v in split(where, nu)
    ]
    return flat(means)
