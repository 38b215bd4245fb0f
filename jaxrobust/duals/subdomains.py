"""Bounds on parts of a region: beta-CROWN (Wang et al. 2021, arXiv:2103.06624).

A subdomain holds the points x' of the region at which some values z_i of the network lie in boxes
[l_i, u_i] that are smaller than the region's. For any mu, and with it mu_+ and mu_- >= 0,

  c.f(x') >= c.f(x') - mu_+ . (z - l) - mu_- . (u - z)

there, and the right side is bounded over the whole region as any row is: mu is subtracted from what
the row leaves at z. For a ReLU split at 0 this is beta-CROWN, mu = beta s. Any mu and any slopes
alpha in [0, 1] are sound. Multipliers live only where a box is smaller than the region's.

The clean example may lie outside of a subdomain, so that lines may gain there instead of giving
away. What rounding does is that of the region (docs/soundness.md).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust.duals.bounds import fallen
from jaxrobust.duals.graph import Node, pull
from jaxrobust.duals.intersections import support_in_box
from jaxrobust.duals.relaxed_network import LINES, Box, Region, Relaxed, relax
from jaxrobust.duals.rounding import SLACK, Noise, gamma, grown, tiny
from jaxrobust.duals.specification import Property
from jaxrobust.types import Array


class Root(NamedTuple):
    """What holds on the whole region, and so on each of its parts."""

    boxes: tuple[Box, ...]
    """Of all nodes in order, with their rounding."""
    noise: Noise
    """What rounding can do to the logits."""
    reach: Array
    """[K]: how large the logits can be in magnitude."""
    bends: Array
    """bool [units]: the unit's function is not affine on its box, which may be split. None of them
    is constant: rounding counts on rows that are 0 at units that are (`relaxed_network.live`)."""


class Domain(NamedTuple):
    """A subdomain, and the clause of the property that is asked there."""

    lower: Array
    """[units]: the boxes of all nodes' sources in order, flat."""
    upper: Array
    clause: Array
    """An integer scalar."""


class Multipliers(NamedTuple):
    """What a subdomain's bound is maximized over. Any values that `feasible` returns are sound."""

    alpha: Array
    """[units]: slopes in [0, 1]."""
    mu: Array
    """[units]: of the box, of its lower end where positive, of its upper end where negative."""
    weights: Array
    """[rows] of the property: how they are mixed, at least 0; those of one clause, summing to 1."""


class Bound(NamedTuple):
    """A subdomain's bound and where it comes from."""

    lower: Array
    """A scalar: no point of the subdomain has less."""
    nu: Array
    """[units]: the row as it arrives at each unit's target."""
    direction: Array
    """The row at the input, of its shape."""


def flat(values: Sequence[Array]) -> Array:
    """Arrays of all nodes in order as one vector `[units]`."""
    return jnp.concatenate([jnp.ravel(v) for v in values])


def split(where: Region, values: Array) -> list[Array]:
    """A vector `[units]` as arrays of the nodes' shapes."""
    parts, start = [], 0
    for node in where.graph.nodes:
        size = math.prod(node.source.shape)
        parts.append(values[start : start + size].reshape(node.source.shape))
        start += size
    return parts


def whole(root: Root, clause: Array) -> Domain:
    """The region itself."""
    lower, upper = [b.lower for b in root.boxes], [b.upper for b in root.boxes]
    return Domain(flat(lower), flat(upper), clause)


def feasible(root: Root, goal: Property, domain: Domain, duals: Multipliers) -> Multipliers:
    """The multipliers moved to where they are sound, and 0 where there is nothing to gain."""
    region = whole(root, domain.clause)
    free, own = root.bends, jnp.asarray(goal.clauses) == domain.clause
    most = jnp.where(free & (domain.lower > region.lower), jnp.inf, 0)
    least = jnp.where(free & (domain.upper < region.upper), -jnp.inf, 0)
    weights = jnp.where(own, jnp.maximum(duals.weights, 0), 0)
    weights = jnp.where(jnp.sum(weights) > 0, weights, own.astype(weights.dtype))
    return Multipliers(
        jnp.clip(duals.alpha, 0, 1),
        jnp.clip(duals.mu, least, most),
        weights / jnp.sum(weights),
    )


def bound(where: Region, root: Root, goal: Property, domain: Domain, duals: Multipliers) -> Bound:
    """A lower bound of the mixed rows over a subdomain, sound for feasible multipliers."""
    row, offset = mixed(root, goal, duals.weights)
    total, nu, nu_x = pulled(where, root, domain, duals, row)
    total.add(support_in_box(where.threat, where.x, -nu_x))
    lower = fallen(where, row[None], total.most()[None], root.noise)[0]
    last = 2 * jnp.finfo(row.dtype).eps * (jnp.abs(lower) + jnp.abs(offset))
    return Bound(lower + offset - jnp.where(offset == 0, 0, last), nu, nu_x)


def pulled(
    where: Region,
    root: Root,
    domain: Domain,
    duals: Multipliers,
    row: Array,
    seeds: Array | None = None,
) -> tuple[_Sum, Array, Array]:
    """How far a row can fall below its clean value on a subdomain, the input's part left out.

    Args:
      row: over the outputs.
      seeds: `[units]`, a row over the units' sources that is added to it.

    Returns:
      (the sum so far; `[units]`, the row at each unit's target; the row at the input).
    """
    nodes = where.graph.nodes
    relaxed: dict[int, Relaxed] = {}
    held: dict[int, Array] = {}
    total = _Sum()
    ends = [split(where, side) for side in domain[:2]]
    slopes, mus = split(where, duals.alpha), split(where, duals.mu)
    more = split(where, jnp.zeros_like(duals.mu) if seeds is None else seeds)
    for node, own, low, high, alpha, mu, seed in zip(
        nodes, root.boxes, *ends, slopes, mus, more, strict=True
    ):
        box = Box(low, high, own.noise)
        relaxed[node.target.id] = relax(where, node, box, "crown", alpha, outside=True)
        held[node.target.id] = mu - seed
        _hold(total, where.values[node.source.id], box, mu, low > own.lower)

    def slope(node: Node, nu: Array) -> Array | None:
        r = relaxed[node.target.id]
        if r.lower_slope is None or r.upper_slope is None:
            return None
        nu = node.spread(nu)
        tilted = jax.nn.relu(nu) * r.lower_slope - jax.nn.relu(-nu) * r.upper_slope
        return tilted - held[node.target.id]

    nu_x, reached = pull(where.graph, where.graph.output, row, slope)
    for i, nu in reached.items():
        r = relaxed[i]
        total.add(jax.nn.relu(nu) * r.lower_gap)
        total.add(jax.nn.relu(-nu) * r.upper_gap)
        total.add(jnp.asarray(r.floor))
    spread = [jnp.broadcast_to(reached[n.target.id], n.source.shape) for n in nodes]
    return total, flat(spread), nu_x


def mixed(root: Root, goal: Property, weights: Array) -> tuple[Array, Array]:
    """The row of outputs that the weights make, and its constant, lowered by their rounding."""
    A, b = (jnp.asarray(v, weights.dtype) for v in (goal.A, goal.b))
    row, offset = weights @ A, weights @ b
    sizes = weights @ (jnp.abs(A) @ root.reach + jnp.abs(b))
    off = grown(gamma(len(weights) + SLACK, row.dtype) * sizes, A.size)
    # one row alone is not rounded
    return row, offset - jnp.where(jnp.sum(weights > 0) > 1, jax.lax.stop_gradient(off), 0)


def _hold(total: _Sum, z: Array, box: Box, mu: Array, raised: Array) -> None:
    """Adds what it costs at the clean value `z` to hold a node's source in its box by `mu`.

    `raised` tells on which side mu = 0 has its derivative.
    """
    at_lower = (mu > 0) | ((mu == 0) & raised)
    total.add(mu * jnp.where(at_lower, z - box.lower, z - box.upper))
    # what rounding does: to z, to these differences, and where mu is added to a row
    least, eps = tiny(z.dtype), jnp.finfo(z.dtype).eps
    reach = jnp.abs(z) + jnp.maximum(jnp.abs(box.lower), jnp.abs(box.upper))
    off = LINES * eps * reach + 4 * least * (1 + reach)
    floor = 4 * least * jnp.sum(1 + reach)
    if box.noise is not None:
        off, floor = off + box.noise.size, floor + box.noise.floor
    total.add(jnp.abs(mu) * jax.lax.stop_gradient(off))
    total.add(jnp.where(jnp.any(mu != 0), jax.lax.stop_gradient(floor), 0))


@dataclasses.dataclass
class _Sum:
    """A sum of terms of any sign, and what its rounding is measured by."""

    value: Array | float = 0.0
    size: Array | float = 0.0
    terms: int = 0
    """The most that are in one array, and the number of arrays."""
    arrays: int = 0

    def add(self, terms: Array) -> None:
        terms = jnp.ravel(terms)
        self.value, self.size = self.value + jnp.sum(terms), self.size + jnp.sum(jnp.abs(terms))
        self.terms, self.arrays = max(self.terms, terms.size), self.arrays + 1

    def most(self) -> Array:
        """An upper bound of the sum."""
        count = self.terms + self.arrays + 2 * SLACK
        value, size = jnp.asarray(self.value), jnp.asarray(self.size)
        return value + jax.lax.stop_gradient(grown(2 * gamma(count, size.dtype) * size, count))
