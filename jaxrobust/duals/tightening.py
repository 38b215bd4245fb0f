"""Boxes of hidden units where a property is violated: a region cut by its own bound.

A bound of a clause is linear in the input, and a violation lies where it is at most 0. Every source
z_i is bounded over that part of the set alone: for any price g >= 0,

  max {<v, d> : d in the set, <a, d> <= h}  <=  max {<v - g a, d> : d in the set} + g h.

After INVPROP (Kotha et al. 2023, arXiv:2302.01404), with the property at the input alone. A box
without a point says that there is no violation.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust.duals.bounds import fallen
from jaxrobust.duals.concretize import spread
from jaxrobust.duals.intersections import support_in_box
from jaxrobust.duals.kinks import bending
from jaxrobust.duals.relaxations import relaxation
from jaxrobust.duals.relaxed_network import Region, prepare
from jaxrobust.duals.rounding import grown, tiny
from jaxrobust.duals.specification import Property
from jaxrobust.duals.subdomains import (
    Domain,
    Multipliers,
    Root,
    bound,
    feasible,
    flat,
    mixed,
    pulled,
    split,
)
from jaxrobust.types import Array, LogitsFn, ThreatModel

_PRICES = (0.03125, 0.0625, 0.125, 0.25, 0.5, 1.0)
"""At which rows of the property go along, in units of a box's width over the largest violation."""
_HALVINGS = 24
"""Of the interval that holds the price of a cut."""


class Cut(NamedTuple):
    """The points x + d with `<slope, d>` <= most, all violations of a subdomain among them."""

    slope: Array
    most: Array


@jax.jit
def tighten(
    f: LogitsFn,
    x: Array,
    threat: ThreatModel,
    goal: Property,
    root: Root,
    domain: Domain,
    duals: Multipliers,
    units: Array,
) -> tuple[Domain, Array]:
    """The subdomain with smaller boxes of some units, which hold every violation in it.

    And which units still bend on them, bool [units].

    Args:
      duals: multipliers of the bound that cuts it.
      units: flat indices of units that bend on the region.
    """
    where = prepare(f, x, threat, boxed=True)
    with jax.default_matmul_precision("highest"):
        asked = feasible(root, goal, domain, duals)
        cut, short = _cut(where, root, goal, domain, asked)
        ends = zip(where.graph.nodes, *(split(where, side) for side in domain[:2]), strict=True)
        alphas = [relaxation(n.kind).adaptive(low, high, *n.args) for n, low, high in ends]
        own = Multipliers(flat(alphas), jnp.zeros_like(domain.lower), duals.weights)
        z = flat([where.values[n.source.id] for n in where.graph.nodes])
        sizes = [b.noise.size for b in root.boxes if b.noise is not None]
        floors = [jnp.full(b.lower.shape, b.noise.floor) for b in root.boxes if b.noise is not None]
        noise = flat(sizes) + flat(floors)
        row, offset = mixed(root, goal, asked.weights)
        eps = jnp.finfo(z.dtype).eps

        def behind(seeds: Array) -> Array:
            """How far a row over the sources falls behind the cut."""
            total, _, nu_x = pulled(where, root, domain, own, jnp.zeros_like(row), seeds)
            for term in _support_behind(where, cut, -nu_x):
                total.add(term)
            return -total.most()

        def joint(seeds: Array, price: Array) -> Array:
            """As `behind`, where the property's rows go along at a price, a power of 2."""
            total, _, nu_x = pulled(where, root, domain, asked, price * row, seeds)
            total.add(support_in_box(where.threat, where.x, -nu_x))
            rise = fallen(where, price * row[None], total.most()[None], root.noise)[0]
            return rise + price * offset - 2 * eps * (jnp.abs(rise) + jnp.abs(price * offset))

        def least(unit: Array, sign: Array) -> Array:
            """A lower bound of sign * source."""
            seeds = jnp.zeros_like(z).at[unit].set(sign)
            width = jnp.maximum(domain.upper[unit] - domain.lower[unit], 0)
            scale = jnp.exp2(jnp.round(jnp.log2(width / jnp.maximum(short, tiny(z.dtype)))))
            prices = jnp.clip(scale, 2.0**-60, 2.0**60) * jnp.asarray(_PRICES, z.dtype)
            gained = jax.vmap(lambda price: joint(seeds, price))(prices)
            gained = jnp.maximum(jnp.max(gained), behind(seeds)) - noise[unit]
            value = sign * z[unit] + gained
            value -= 4 * eps * (jnp.abs(z[unit]) + jnp.abs(gained) + noise[unit])
            # on boxes without a point, which stay so, anything may come out
            return jnp.where(jnp.isnan(value), -jnp.inf, value)

        ones = jnp.ones(len(units), z.dtype)
        low = jax.vmap(least)(units, ones)
        high = -jax.vmap(least)(units, -ones)
    lower, upper = domain.lower.at[units].max(low), domain.upper.at[units].min(high)
    return Domain(lower, upper, domain.clause), bending(where, lower, upper)


def _cut(
    where: Region, root: Root, goal: Property, domain: Domain, duals: Multipliers
) -> tuple[Cut, Array]:
    """Where the bound at these multipliers allows a violation, and how large one it allows."""
    found = bound(where, root, goal, domain, duals)
    far = support_in_box(where.threat, where.x, -found.direction)
    eps = jnp.finfo(far.dtype).eps
    # without the set, the bound is lower + far + <direction, d>
    most = 4 * eps * (jnp.abs(found.lower) + far) - (found.lower + far)
    return Cut(found.direction, most), -found.lower


def _support_behind(where: Region, cut: Cut, direction: Array) -> tuple[Array, ...]:
    """Terms that add up to at least the largest `<direction, d>` of the set behind the cut."""

    def rise(price: Array) -> Array:
        return support_in_box(where.threat, where.x, direction - price * cut.slope)

    def far(v: Array) -> Array:
        return jax.grad(lambda v: support_in_box(where.threat, where.x, v))(v)

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        price = 0.5 * (low + high)
        point = far(direction - price * cut.slope)
        beyond = jnp.sum(point * cut.slope) > cut.most
        return jnp.where(beyond, price, low), jnp.where(beyond, high, price)

    size = jnp.sum(jnp.abs(direction)), jnp.sum(jnp.abs(cut.slope))
    top = 100 * size[0] / jnp.maximum(size[1], tiny(direction.dtype))
    price = jax.lax.fori_loop(0, _HALVINGS, halve, (jnp.zeros_like(top), top))[1]
    eps = jnp.finfo(direction.dtype).eps
    reach = spread(where.threat, where.x, boxed=True)
    sizes = jnp.sum(reach * (jnp.abs(direction) + price * jnp.abs(cut.slope)))
    off = grown(4 * eps * sizes, direction.size)
    behind, plain = rise(price) + off, rise(jnp.zeros_like(price))
    paid = price * cut.most
    pays = behind + paid + 2 * eps * (behind + jnp.abs(paid)) < plain
    return jnp.where(pays, behind, plain), jnp.where(pays, paid, 0)
