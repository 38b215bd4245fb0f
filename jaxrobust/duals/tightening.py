"""Boxes of hidden units where a property is violated: a region cut by its own bound.

A violation lies where a row of the property, c.f + b, is at most 0. Over those points alone, every
source z_i is at least

  max over g >= 0 of  min {z_i + g (c.f + b) over the set},

for the added term is then at most 0. The right side is bounded like any row, one that starts at
the unit and at the outputs together, and ascended in the price g and the row's own slopes and
multipliers (INVPROP, Kotha et al. 2023, arXiv:2302.01404); g = 0 asks for no violation. Boxes
without a point say that there is none.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from jaxrobust.duals import kinks
from jaxrobust.duals.bounds import fallen
from jaxrobust.duals.intersections import support_in_box
from jaxrobust.duals.relaxations import relaxation
from jaxrobust.duals.relaxed_network import prepare
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

_PRICES = (0.0, 0.03125, 0.0625, 0.125, 0.25, 0.5, 1.0)
"""Where prices start, in units of a box's width over the largest violation."""
_RATE = 0.1
"""The first step of the ascent."""


class _Asked(NamedTuple):
    """What a row's bound is maximized over."""

    duals: Multipliers
    price: Array
    """In units of `scale`."""


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
    steps: Array,
) -> tuple[Domain, Array]:
    """The subdomain with smaller boxes of some units, which hold every violation in it.

    And which units still bend on them, bool [units].

    Args:
      duals: multipliers of the property's bound there, from which the ascent may start.
      units: flat indices of units that bend on the region.
      steps: of the ascent; with 0, only where it starts is tried.
    """
    where = prepare(f, x, threat, boxed=True)
    with jax.default_matmul_precision("highest"):
        asked = feasible(root, goal, domain, duals)
        ends = zip(where.graph.nodes, *(split(where, side) for side in domain[:2]), strict=True)
        alphas = [relaxation(n.kind).adaptive(low, high, *n.args) for n, low, high in ends]
        starts = [asked, asked._replace(alpha=flat(alphas))]
        z = flat([where.values[n.source.id] for n in where.graph.nodes])
        sizes = [b.noise.size for b in root.boxes if b.noise is not None]
        floors = [jnp.full(b.lower.shape, b.noise.floor) for b in root.boxes if b.noise is not None]
        noise = flat(sizes) + flat(floors)
        row, offset = mixed(root, goal, asked.weights)
        reach = grown(jnp.abs(row) @ root.reach, len(row))
        floor = 2 * tiny(z.dtype) * (1 + jnp.sum(root.reach))
        short = jnp.maximum(-bound(where, root, goal, domain, asked).lower, tiny(z.dtype))
        eps = jnp.finfo(z.dtype).eps

        def gained(seeds: Array, price: Array, own: Multipliers) -> tuple[Array, Array]:
            """How far a row over the sources can fall where the property is violated; its rows."""
            total, nu, nu_x = pulled(where, root, domain, own, price * row, seeds)
            total.add(support_in_box(where.threat, where.x, -nu_x))
            along, fall = price * row, total.most()
            rise = fallen(where, along[None], fall[None], root.noise)[0]
            # for `fallen`, a row of zeros has nothing to lose; here the units' row does
            rise = jnp.where(jnp.any(along != 0), rise, -fall)
            # the row goes along at its price, which may be rounded, or to 0
            off = 2 * eps * (jnp.abs(rise) + price * (jnp.abs(offset) + reach)) + floor
            return rise + price * offset - jax.lax.stop_gradient(off), nu

        def least(unit: Array, sign: Array) -> Array:
            """A lower bound of sign * source."""
            seeds = jnp.zeros_like(z).at[unit].set(sign)
            scale = jnp.maximum(domain.upper[unit] - domain.lower[unit], 0) / short
            scale = jnp.minimum(scale, 2.0**60)

            def value(at: _Asked) -> tuple[Array, Array]:
                return gained(seeds, at.price * scale, at.duals)

            tried = [_Asked(own, jnp.asarray(p, z.dtype)) for own in starts for p in _PRICES]
            stacked = jax.tree.map(lambda *v: jnp.stack(v), *tried)
            values, rows = jax.lax.map(value, stacked)
            most = jnp.argmax(jnp.where(jnp.isnan(values), -jnp.inf, values))
            first = jax.tree.map(lambda v: v[most], stacked)
            size = kinks.scale(where, rows[most])
            optimizer = optax.adam(_RATE)

            def step(_: Array, carry: tuple) -> tuple:
                at, state, best = carry
                (now, _), gradient = jax.value_and_grad(value, has_aux=True)(at)
                with jax.numpy_dtype_promotion("standard"):  # Optax raises floats to integers
                    updates, state = optimizer.update(jax.tree.map(jnp.negative, gradient), state)
                updates = cast(_Asked, updates)
                alpha = at.duals.alpha + updates.duals.alpha
                moved = at.duals._replace(alpha=alpha, mu=at.duals.mu + updates.duals.mu * size)
                price = jnp.maximum(at.price + updates.price, 0)
                at = _Asked(feasible(root, goal, domain, moved), price)
                return at, state, jnp.fmax(best, now)

            carry = (first, optimizer.init(cast(optax.Params, first)), values[most])
            best = jax.lax.fori_loop(0, steps, step, carry)[2] - noise[unit]
            found = sign * z[unit] + best
            found -= 4 * eps * (jnp.abs(z[unit]) + jnp.abs(best) + noise[unit])
            # on boxes without a point, which stay so, anything may come out
            return jnp.where(jnp.isnan(found), -jnp.inf, found)

        ones = jnp.ones(len(units), z.dtype)
        low = jax.vmap(least)(units, ones)
        high = -jax.vmap(least)(units, -ones)
    lower, upper = domain.lower.at[units].max(low), domain.upper.at[units].min(high)
    return Domain(lower, upper, domain.clause), kinks.bending(where, lower, upper)
