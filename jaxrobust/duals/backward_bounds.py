"""One example's region: a traced network, a ball around the example, and what rows lose over it.

The dual network is the vjp of the relaxed network. With h a node's value at the clean example and
nu the cotangent that a row c leaves there, the linear lower bound of c.f differs from c.f at the
clean example by what its lines give away, so that over the ball

  c.f(x') >= c.f(x) - max_d <-nu_x, d> - sum_j relu(nu_j) (h - lower)_j + relu(-nu_j) (upper - h)_j.

This needs no biases and adds non-negative terms only. With Wong-Kolter's slopes it is the dual
objective J of Wong's thesis (theorem 1 and algorithm 1, with the signs corrected).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.duals.concretize import check_ball, spread, support
from jaxrobust.duals.graph import Graph, Node, Ref, pull, run
from jaxrobust.duals.lines import Lines
from jaxrobust.duals.relaxations import relaxation
from jaxrobust.duals.rounding import Noise, grown, noise, summed, tiny
from jaxrobust.duals.row_coloring import RowColoring, row_coloring
from jaxrobust.duals.trace import trace
from jaxrobust.types import Array, LogitsFn, ThreatModel

LINES = 8
"""Machine epsilons of their numbers by which a node's lines are widened: those of the arithmetic
that makes them, of the activation's own values, and of a row's product with the slope."""


class Region(NamedTuple):
    """A network on a ball around one example; made by `prepare`, alive within one trace."""

    graph: Graph
    coloring: dict[int, RowColoring]
    x: Array
    threat: ThreatModel
    boxed: bool
    values: dict[int, Array]
    """Every value of the network at `x`, by `Ref.id`."""


class Box(NamedTuple):
    """Elementwise bounds of one node's source over the region."""

    lower: Array
    upper: Array
    noise: Noise | None = None
    """What rounding can do on the way to the source; None where that is somebody else's matter."""


class Relaxed(NamedTuple):
    """A node's lines: slopes, and what they give away at the clean example (gaps, at least 0).

    Slopes None stand for the constant lines of an interval, at which a row stops.
    """

    lower_slope: Array | None
    upper_slope: Array | None
    lower_gap: Array
    upper_gap: Array
    floor: Array | float = 0.0
    """A scalar: what underflow can take from a row that comes by."""

    @property
    def parallel(self) -> bool:
        """Whether a row and its negative share one backward pass."""
        return self.lower_slope is self.upper_slope


def prepare(f: LogitsFn, x: Array, threat: ThreatModel, *, boxed: bool = False) -> Region:
    """Traces `f` and evaluates it at `x`; errors as `trace` and `concretize.check_ball`."""
    check_ball(threat, x)
    graph = trace(f, x)
    with jax.default_matmul_precision("highest"):
        values = run(
            graph, x, lambda node, z: relaxation(node.kind).function(z, *node.args), summed
        )
    return Region(graph, row_coloring(graph), x, threat, boxed, values)


def relax(where: Region, node: Node, box: Box, method: str, alpha: Array | None = None) -> Relaxed:
    """A node's lines on `box`: "interval", "wong_kolter" or "crown", or those of a given alpha."""
    kind = relaxation(node.kind)
    z, h = where.values[node.source.id], where.values[node.target.id]
    l, u, low, high = _ends(where, node, box)  # noqa: E741
    eps, least = jnp.finfo(z.dtype).eps, tiny(z.dtype)
    values = jnp.maximum(jnp.maximum(jnp.abs(low), jnp.abs(high)), jnp.abs(h))
    if method == "interval" and alpha is None:
        miss = 2 * LINES * eps * values
        return Relaxed(None, None, _gap(h - low) + miss, _gap(high - h) + miss, least * h.size)
    if alpha is None and method == "crown":
        alpha = kind.adaptive(l, u, *node.args)
    lines = kind.lines(l, u, alpha, *node.args)
    reach = jnp.maximum(jnp.abs(l), jnp.abs(u))
    bend = 0.0 if kind.polygonal else LINES * eps * (u - l)
    bent = ~_straight(lines) if kind.polygonal else True

    def off(slope: Array, intercept: Array) -> Array:
        """How far the line, as computed, may miss the function and a row the line."""
        steep = jnp.abs(slope)
        size = jnp.where(bent, LINES * eps * (steep * reach + jnp.abs(intercept) + values), 0)
        met = 0.0 if box.noise is None else steep * box.noise.size
        return size + bend * jnp.maximum(steep, 1) + least * reach + met

    below = _gap(h - (lines.lower_slope * z + lines.lower_intercept))
    above = _gap(lines.upper_slope * z + lines.upper_intercept - h)
    below += off(lines.lower_slope, lines.lower_intercept)
    above += off(lines.upper_slope, lines.upper_intercept)
    floor = 4 * least * jnp.sum(1 + reach + below + above)
    if box.noise is not None:
        floor += box.noise.floor
    return Relaxed(lines.lower_slope, lines.upper_slope, below, above, jax.lax.stop_gradient(floor))


def _straight(lines: Lines) -> Array:
    """Where the function is z or 0 on its box, and both lines are: nothing is rounded."""
    slope, intercept = lines.lower_slope, lines.lower_intercept
    same = (slope == lines.upper_slope) & (intercept == lines.upper_intercept)
    return same & (intercept == 0) & ((slope == 0) | (slope == 1))


def _ends(where: Region, node: Node, box: Box) -> tuple[Array, Array, Array, Array]:
    """The box of a node's source, finite, and that of its target."""
    # infinite bounds would make NaN of 0 * inf; no finite value lies beyond the largest float
    most = jnp.finfo(node.source.dtype).max / 8
    l, u = (jnp.clip(b, -most, most) for b in (box.lower, box.upper))  # noqa: E741
    return l, u, *relaxation(node.kind).interval(l, u, *node.args)


def live(where: Region, node: Node, box: Box) -> Array | None:
    """Where a row that comes by the node can be other than 0 at its source; None: anywhere."""
    if not relaxation(node.kind).polygonal:
        return None
    l, u, low, high = _ends(where, node, box)  # noqa: E741
    # neither NaN nor a box that is one point must look like a unit that is constant
    return ~((low == high) & (l < u))


def rounded(where: Region, boxes: Sequence[Box], seed: Ref, live: Array | None = None) -> Noise:
    """What rounding can do to `seed`, given the boxes of the nodes before it; see `noise`."""
    far = {where.graph.input.id: spread(where.threat, where.x, boxed=where.boxed)}
    for node, box in zip(where.graph.nodes, boxes, strict=False):
        _, _, low, high = _ends(where, node, box)
        h = where.values[node.target.id]
        least = LINES * jnp.finfo(h.dtype).eps * (jnp.abs(low) + jnp.abs(high))
        far[node.target.id] = jnp.maximum(high - h, h - low) + least
    return noise(where.graph, where.values, far, seed, live)


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
    (`RowColoring.fields` of its color) tells them apart, and results have shape `[slots]`.
    """

    def slope(node: Node, nu: Array) -> Array | None:
        r = relaxed[node.target.id]
        if r.lower_slope is None or r.upper_slope is None:
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
            total = total + r.floor
            for part, gap in ((nu, r.lower_gap), (-nu, r.upper_gap)):
                total = total + _dots(jax.nn.relu(part), _apart(gap, i, fields))
        return total

    nu_x, reached = pulled(row)
    far = _farthest(where, -nu_x, fields)
    first = grown(far + give(reached), len(reached))
    if not both:
        return (first,)
    if not all(relaxed[i].parallel for i in reached):
        nu_x, reached = pulled(-row)
        return first, grown(_farthest(where, -nu_x, fields) + give(reached), len(reached))
    # a ball is symmetric, its box is not
    far = _farthest(where, nu_x, fields) if where.boxed else far
    return first, grown(far + give({i: -nu for i, nu in reached.items()}), len(reached))


def _apart(value: Array, i: int, fields: dict[int, Array] | None) -> Array:
    """`value` of the input or node `i` as `[n]`, or as `[slots, n]` for rows that share a pass."""
    flat = value.reshape(-1)
    if fields is None:
        return flat
    return jnp.append(flat, jnp.zeros(1, flat.dtype))[fields[i]]


def _dots(left: Array, right: Array) -> Array:
    """Dot products over the last axis of `[n]` or `[slots, n]`, of numbers >= 0, rounded up."""
    found = left @ right if left.ndim == 1 else jax.vmap(jnp.dot)(left, right)
    return grown(found, left.shape[-1])


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
