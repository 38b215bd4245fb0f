"""One example's region: a traced network, a ball around the example, and what rows lose over it.

The dual network is the vjp of the relaxed network. With h a node's value at the clean example and
nu the cotangent that a row c leaves there, the linear lower bound of c.f differs from c.f at the
clean example by what its lines give away, so that over the ball

  c.f(x') >= c.f(x) - max_d <-nu_x, d> - sum_j relu(nu_j) (h - lower)_j + relu(-nu_j) (upper - h)_j.

This needs no biases and adds non-negative terms only. With Wong-Kolter's slopes it is the dual
objective J of Wong's thesis (theorem 1 and algorithm 1, with the signs corrected).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.duals.graph import Graph, Node, Ref, pull, run
from jaxrobust.duals.locality import Sharing, locality
from jaxrobust.duals.relaxations import relaxation
from jaxrobust.duals.support import check_ball, support
from jaxrobust.duals.trace import trace
from jaxrobust.types import Array, LogitsFn, ThreatModel

ROUNDING = 2
"""Machine epsilons by which every term of a bound is widened."""


class Region(NamedTuple):
    """A network on a ball around one example; made by `prepare`, alive within one trace."""

    graph: Graph
    sharing: dict[int, Sharing]
    x: Array
    threat: ThreatModel
    boxed: bool
    values: dict[int, Array]
    """Every value of the network at `x`, by `Ref.id`."""


class Box(NamedTuple):
    """Elementwise bounds of one node's source over the region."""

    lower: Array
    upper: Array


class Relaxed(NamedTuple):
    """A node's lines: slopes, and what they give away at the clean example (gaps, at least 0).

    Slopes None stand for the constant lines of an interval, at which a row stops.
    """

    lower_slope: Array | None
    upper_slope: Array | None
    lower_gap: Array
    upper_gap: Array

    @property
    def parallel(self) -> bool:
        """Whether a row and its negative share one backward pass."""
        return self.lower_slope is self.upper_slope


def prepare(f: LogitsFn, x: Array, threat: ThreatModel, *, boxed: bool = False) -> Region:
    """Traces `f` and evaluates it at `x`; errors as `trace` and `support.check_ball`."""
    check_ball(threat, x)
    graph = trace(f, x)
    with jax.default_matmul_precision("highest"):
        values = run(graph, x, lambda node, z: relaxation(node.kind).function(z, *node.args))
    return Region(graph, locality(graph), x, threat, boxed, values)


def relax(where: Region, node: Node, box: Box, method: str, alpha: Array | None = None) -> Relaxed:
    """A node's lines on `box`: "interval", "wong_kolter" or "crown", or those of a given alpha."""
    kind = relaxation(node.kind)
    z, h = where.values[node.source.id], where.values[node.target.id]
    # infinite bounds would make NaN of 0 * inf; no finite value lies beyond the largest float
    most = jnp.finfo(z.dtype).max / 8
    l, u = (jnp.clip(b, -most, most) for b in box)  # noqa: E741
    noise = ROUNDING * jnp.finfo(z.dtype).eps * (jnp.abs(z) + u - l)
    if method == "interval" and alpha is None:
        low, high = kind.interval(l, u, *node.args)
        return Relaxed(None, None, _gap(h - low) + noise, _gap(high - h) + noise)
    if alpha is None and method == "crown":
        alpha = kind.adaptive(l, u, *node.args)
    lines = kind.lines(l, u, alpha, *node.args)
    # a flat line passes no rounding of z on
    noise = noise * jnp.maximum(jnp.abs(lines.lower_slope), jnp.abs(lines.upper_slope))
    # comparisons with NaN are false: a broken bound must not look like a stable unit
    noise = jnp.where(jnp.isnan(l) | jnp.isnan(u), jnp.nan, noise)
    return Relaxed(
        lines.lower_slope,
        lines.upper_slope,
        _gap(h - (lines.lower_slope * z + lines.lower_intercept)) + noise,
        _gap(lines.upper_slope * z + lines.upper_intercept - h) + noise,
    )


def _gap(gap: Array) -> Array:
    return jnp.maximum(gap, 0)


def losses(
    where: Region,
    relaxed: dict[int, Relaxed],
    seed: Ref,
    row: Array,
    fields: dict[int, Array] | None = None,
    *,
    both: bool,
) -> tuple[Array, ...]:
    """How far row . value can fall below its value at `x`, and with `both` how far rise above.

    `relaxed` holds the lines of every node before `seed`, by target id. `row` has the seed's
    shape. Results are scalars; where `row` is a sum of rows over units that share a pass, `fields`
    (`Sharing.fields` of its color) tells them apart, and results have shape `[slots]`.
    """

    def slope(node: Node, nu: Array) -> Array | None:
        r = relaxed[node.target.id]
        if r.lower_slope is None:
            return None
        if r.parallel:
            return nu * r.lower_slope
        return jax.nn.relu(nu) * r.lower_slope - jax.nn.relu(-nu) * r.upper_slope

    def pulled(row: Array) -> tuple[Array, dict[int, Array]]:
        nu_x, reached = pull(where.graph, seed, row, slope)
        reached = {i: _apart(nu, i, fields) for i, nu in reached.items()}
        return _apart(nu_x, where.graph.input.id, fields), reached

    def give(reached: dict[int, Array]) -> Array | float:
        total = 0.0
        for i, nu in reached.items():
            r = relaxed[i]
            for part, gap in ((nu, r.lower_gap), (-nu, r.upper_gap)):
                total = total + _dots(jax.nn.relu(part), _apart(gap, i, fields))
        return total

    grow = 1 + ROUNDING * jnp.finfo(row.dtype).eps
    nu_x, reached = pulled(row)
    fall = _farthest(where, -nu_x, fields)
    first = (fall + give(reached)) * grow
    if not both:
        return (first,)
    if not all(relaxed[i].parallel for i in reached):
        nu_x, reached = pulled(-row)
        return first, (_farthest(where, -nu_x, fields) + give(reached)) * grow
    # a ball is symmetric, its box is not
    rise = _farthest(where, nu_x, fields) if where.boxed else fall
    return first, (rise + give({i: -nu for i, nu in reached.items()})) * grow


def _apart(value: Array, i: int, fields: dict[int, Array] | None) -> Array:
    """`value` of the input or node `i` as `[n]`, or as `[slots, n]` for rows that share a pass."""
    flat = value.reshape(-1)
    if fields is None:
        return flat
    return jnp.append(flat, jnp.zeros(1, flat.dtype))[fields[i]]


def _dots(left: Array, right: Array) -> Array:
    """Dot products over the last axis of `[n]` or `[slots, n]`."""
    return left @ right if left.ndim == 1 else jax.vmap(jnp.dot)(left, right)


def _farthest(where: Region, direction: Array, fields: dict[int, Array] | None) -> Array:
    """`support` in each direction, `[n]` or `[slots, n]`, on the coordinates it lives on."""
    if fields is None:
        return support(where.threat, where.x, direction.reshape(where.x.shape), boxed=where.boxed)

    def one(direction: Array, field: Array) -> Array:
        def along(leaf: Array) -> Array:
            # the coordinate out of range has no direction: any value does
            whole = np.shape(leaf) == where.x.shape and where.x.ndim
            return jnp.asarray(leaf).reshape(-1).at[field].get(mode="clip") if whole else leaf

        threat = jax.tree.map(along, where.threat)
        return support(threat, along(where.x), direction, boxed=where.boxed)

    return jax.vmap(one)(direction, fields[where.graph.input.id])
