"""One step of branch and bound on the device: choose units, split subdomains, bound the halves.

The threat's pixel box counts here; a set without one has an infinite box.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from jaxrobust.duals import kinks
from jaxrobust.duals.bounds import hidden_boxes, row_bounds
from jaxrobust.duals.intersections import support_in_box
from jaxrobust.duals.relaxations import relaxation
from jaxrobust.duals.relaxed_network import Region, prepare, rounded
from jaxrobust.duals.specification import Property
from jaxrobust.duals.subdomains import (
    Domain,
    Multipliers,
    Root,
    bound,
    feasible,
    flat,
    whole,
)
from jaxrobust.types import Array, LogitsFn, ThreatModel

RATE = 0.2
"""The first step of the ascent: in alpha and the weights as it is, in mu in units of rows."""


class Bounded(NamedTuple):
    """Subdomains and what the ascent reached there, with one more leading axis for each batch."""

    lower: Array
    duals: Multipliers
    worst: Array
    """What the property is worth where the bound's minimum lies, if that were the network's."""
    witness: Array
    """That input, moved into the set."""


class Halves(NamedTuple):
    """How a batch of subdomains was split, and its halves."""

    unit: Array
    """[B]: the unit that was split, a flat index."""
    point: Array
    """[B]: the value of its source at which it was split."""
    split: Array
    """[B]: False where no unit bends inside of its box. Both halves are then the whole."""
    below: Bounded
    above: Bounded


@functools.partial(jax.jit, static_argnames=("methods", "chunk", "steps"))
def begin(
    f: LogitsFn,
    x: Array,
    threat: ThreatModel,
    goal: Property,
    clauses: Array,
    *,
    methods: Sequence[str],
    chunk: int | None,
    steps: int,
) -> tuple[Root, Bounded]:
    """The whole region: its boxes, and the bound of each clause after `steps` of ascent."""
    where = prepare(f, x, threat, boxed=True)
    output = where.graph.output
    boxes = hidden_boxes(where, methods=methods, chunk=chunk)
    eye = jnp.eye(output.shape[0], dtype=output.dtype)
    ends = row_bounds(where, jnp.concatenate([eye, -eye]), boxes, methods=methods, chunk=chunk)
    reach = jnp.max(jnp.abs(ends.reshape(2, -1)), axis=0)
    bends = kinks.bending(where, flat([b.lower for b in boxes]), flat([b.upper for b in boxes]))
    root = Root(boxes, rounded(where, boxes, output), reach, bends)
    alphas = [
        relaxation(n.kind).adaptive(b.lower, b.upper, *n.args)
        for n, b in zip(where.graph.nodes, boxes, strict=True)
    ]
    start = Multipliers(
        flat(alphas), jnp.zeros_like(flat(alphas)), jnp.zeros(len(goal.b), output.dtype)
    )
    domains = jax.vmap(lambda clause: whole(root, clause))(clauses)
    duals = jax.tree.map(lambda v: jnp.broadcast_to(v, (len(clauses), *v.shape)), start)
    scale = jnp.ones_like(duals.mu)
    with jax.default_matmul_precision("highest"):
        return root, _ascend(f, where, root, goal, domains, duals, scale, steps)


@functools.partial(jax.jit, static_argnames=("steps",))
def improve(
    f: LogitsFn,
    x: Array,
    threat: ThreatModel,
    goal: Property,
    root: Root,
    domains: Domain,
    duals: Multipliers,
    *,
    steps: int,
) -> Bounded:
    """The bounds of a batch of subdomains after more ascent."""
    where = prepare(f, x, threat, boxed=True)
    with jax.default_matmul_precision("highest"):
        return _ascend(f, where, root, goal, domains, duals, jnp.ones_like(duals.mu), steps)


@functools.partial(jax.jit, static_argnames=("steps", "candidates"))
def halve(
    f: LogitsFn,
    x: Array,
    threat: ThreatModel,
    goal: Property,
    root: Root,
    domains: Domain,
    duals: Multipliers,
    *,
    steps: int,
    candidates: int,
) -> Halves:
    """Splits each subdomain of a batch in two and ascends the bounds of both.

    The unit is found by filtered smart branching (De Palma et al. 2021, arXiv:2104.06718): of the
    `candidates` whose relaxation gives away most by the parent's row, the one whose halves, at the
    parent's multipliers, have the best bounds.
    """
    where = prepare(f, x, threat, boxed=True)
    bounds = functools.partial(bound, where, root, goal)

    def choose(domain: Domain, own: Multipliers) -> tuple[Array, Array, Array, Array]:
        own = feasible(root, goal, domain, own)
        parent = bounds(domain, own)
        score, points = kinks.scores(where, domain, parent.nu)
        best, units = jax.lax.top_k(score, min(candidates, score.size))

        def gains(unit: Array) -> Array:
            parts = jax.tree.map(lambda *v: jnp.stack(v), *_parts(domain, unit, points[unit]))
            lowers = jax.vmap(lambda part: bounds(part, own).lower)(parts) - parent.lower
            # what is above 0 is proved, and no better for being higher
            gain = jnp.clip(lowers, 0, jnp.maximum(-parent.lower, 0))
            return jnp.min(gain) + 0.1 * jnp.max(gain)

        value = jnp.where(best > 0, jax.vmap(gains)(units), -1)
        unit = units[jnp.argmax(value)]
        return unit, points[unit], score[unit] > 0, kinks.scale(where, parent.nu)

    with jax.default_matmul_precision("highest"):
        unit, point, found, scale = jax.vmap(choose)(domains, duals)
        below, above = jax.vmap(_parts)(domains, unit, point)
        below, above = (
            jax.tree.map(lambda a, b: jnp.where(_like(found, a), a, b), part, domains)
            for part in (below, above)
        )
        both = jax.tree.map(lambda *v: jnp.concatenate(v), below, above)
        twice = jax.tree.map(lambda v: jnp.concatenate([v, v]), duals)
        ends = _ascend(f, where, root, goal, both, twice, jnp.concatenate([scale] * 2), steps)
    low, high = (jax.tree.map(lambda v, i=i: jnp.split(v, 2)[i], ends) for i in (0, 1))
    return Halves(unit, point, found, low, high)


@jax.jit
def evaluate(
    f: LogitsFn,
    x: Array,
    threat: ThreatModel,
    goal: Property,
    root: Root,
    domain: Domain,
    duals: Multipliers,
) -> Array:
    """The bound of one subdomain at given multipliers, which are made feasible first."""
    where = prepare(f, x, threat, boxed=True)
    with jax.default_matmul_precision("highest"):
        own = feasible(root, goal, domain, duals)
        return bound(where, root, goal, domain, own).lower


def _ascend(
    f: LogitsFn,
    where: Region,
    root: Root,
    goal: Property,
    domains: Domain,
    duals: Multipliers,
    scale: Array,
    steps: int,
) -> Bounded:
    """Projected Adam on a batch until all bounds are above 0, `steps` at most; the best seen."""
    project = jax.vmap(functools.partial(feasible, root, goal))
    bounds = jax.vmap(functools.partial(bound, where, root, goal))

    def negative(duals: Multipliers) -> tuple[Array, _Iterate]:
        found = bounds(domains, duals)
        return -jnp.sum(found.lower), _Iterate(duals, found.lower, found.direction)

    optimizer = optax.adam(optax.exponential_decay(RATE, 1, 0.95), b1=0.8)

    def step(carry: tuple[Array, Multipliers, Any, _Iterate]) -> tuple:
        count, duals, state, best = carry
        gradients, now = jax.grad(negative, has_aux=True)(duals)
        with jax.numpy_dtype_promotion("standard"):  # Optax raises a float to an integer power.
            updates, state = optimizer.update(gradients, state)
        updates = cast(Multipliers, updates)
        updates = updates._replace(mu=updates.mu * scale)
        moved = project(domains, jax.tree.map(jnp.add, duals, updates))
        return count + 1, moved, state, _better(best, now)

    def goes_on(carry: tuple[Array, Multipliers, Any, _Iterate]) -> Array:
        return (carry[0] <= steps) & jnp.any(~(carry[3].lower > 0))

    start = project(domains, duals)
    size, dtype = len(domains.clause), where.x.dtype
    rows = jnp.zeros((size, *where.x.shape), dtype)
    first = _Iterate(start, jnp.full(size, -jnp.inf, dtype), rows)
    carry = (jnp.zeros((), jnp.int32), start, optimizer.init(start), first)
    best = jax.lax.while_loop(goes_on, step, carry)[3]
    witness = jax.vmap(functools.partial(_minimum, where))(best.direction)
    worst = jax.vmap(lambda z: goal.value(f(z)))(witness)
    return Bounded(best.lower, best.duals, worst, witness)


class _Iterate(NamedTuple):
    """Multipliers, what they prove, and the rows that they leave at the input."""

    duals: Multipliers
    lower: Array
    direction: Array


def _better(best: _Iterate, new: _Iterate) -> _Iterate:
    """One by one the larger bound; NaN never replaces a number."""
    rises = new.lower > best.lower
    return jax.tree.map(lambda a, b: jnp.where(_like(rises, a), a, b), new, best)


def _like(mask: Array, value: Array) -> Array:
    return mask.reshape(-1, *[1] * (value.ndim - 1))


def _minimum(where: Region, direction: Array) -> Array:
    """The point of the set where `direction` is least."""
    far = jax.grad(lambda d: support_in_box(where.threat, where.x, d))(-direction)
    return where.threat.project(where.x, where.x + far)


def _parts(domain: Domain, unit: Array, point: Array) -> tuple[Domain, Domain]:
    """The subdomain where the unit's source is at most `point`, and where it is at least."""
    below = domain._replace(upper=domain.upper.at[unit].set(point))
    return below, domain._replace(lower=domain.lower.at[unit].set(point))
