"""The relaxed network on a ball around one example: boxes, lines, and what they give away."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust import checks
from jaxrobust.duals.concretize import check_ball, spread
from jaxrobust.duals.graph import Graph, Node, Ref, run
from jaxrobust.duals.lines import Lines
from jaxrobust.duals.relaxations import relaxation
from jaxrobust.duals.rounding import BLOCK, Noise, noise, summed, tiny
from jaxrobust.duals.row_coloring import RowColoring, row_coloring
from jaxrobust.duals.trace import trace
from jaxrobust.types import Array, LogitsFn, ThreatModel

METHODS = ("interval", "wong_kolter", "crown")
"""The relaxations that bounds are taken from."""
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
    block: int
    """Products that were added up in one go there; see `rounding.summed`."""


class Box(NamedTuple):
    """Elementwise bounds of one node's source over the region."""

    lower: Array
    upper: Array
    noise: Noise | None = None
    """What rounding can do on the way to the source; None where that is somebody else's matter."""
    image: tuple[Array, Array] | None = None
    """The interval of the target's values; None where nobody has asked for it yet."""


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


def prepare(
    f: LogitsFn, x: Array, threat: ThreatModel, *, boxed: bool = False, block: int = BLOCK
) -> Region:
    """Traces `f` and evaluates it at `x`: what all bounds on one ball start from.

    Args:
      f: any pure function of one example, as in `lower_bounds`.
      x: one example of any shape, float32 or float64.
      threat: a Linf, L2 or L1 ball or a union of them.
      boxed: whether the threat's pixel box counts.
      block: products of the clean pass that are added up in one go, see `rounding.summed`.

    Returns:
      A `Region`: the arguments `x`, `threat`, `boxed` and `block`; `graph`, the trace; `values`,
      every value of the network at `x`, by `Ref.id`; and `coloring`, the nodes' rows that can share
      backward passes, by the `Ref.id` of a node's source. It is alive within the trace that made
      it.

    Raises:
      ValueError: another threat, a radius that is neither a number nor of `x`'s shape, or as
        `trace`.
    """
    check_ball(threat, x)
    graph = trace(f, x)
    with jax.default_matmul_precision("highest"):
        values = run(
            graph,
            x,
            lambda node, z: relaxation(node.kind).function(z, *node.args),
            functools.partial(summed, block=block),
        )
    return Region(graph, row_coloring(graph), x, threat, boxed, values, block)


def check_methods(methods: Sequence[str]) -> None:
    """Raises ValueError unless `methods` is a sequence of one or more of `METHODS`."""
    if isinstance(methods, str) or not methods:
        raise ValueError(f"methods must be a sequence of {METHODS}, got {methods!r}")
    for method in methods:
        checks.choice("method", method, METHODS)


def relax(
    where: Region,
    node: Node,
    box: Box,
    method: str,
    alpha: Array | None = None,
    *,
    outside: bool = False,
) -> Relaxed:
    """A node's lines on the box of its source.

    Args:
      where: the network on its ball, from `prepare`.
      node: one of `where.graph.nodes`.
      box: bounds of the node's source, of its shape.
      method: "interval", "wong_kolter" or "crown".
      alpha: slopes of the source's shape, in [0, 1], in place of the method's own.
      outside: whether the clean example may lie outside of the box, as it may where the box is that
        of a part of the region. Gaps then have a sign: below 0 a line gains instead of giving away.

    Returns:
      A `Relaxed`: the slopes of the lower and the upper line, and how far each line lies from the
      function's value at the clean example, what rounding can do included. Slopes are of the
      source's shape, gaps of the target's, and these at least 0 but for `outside`. Both slopes are
      None for the constant lines of "interval" without `alpha`. `floor` is a scalar, what underflow
      can take from a row.

    Raises:
      ValueError: an unknown method, or a box or `alpha` that has not the node's shape.
    """
    checks.choice("method", method, METHODS)
    shape = jnp.shape(where.values[node.source.id])
    given = {"box.lower": box.lower, "box.upper": box.upper, "alpha": alpha}
    for name, value in given.items():
        if value is not None and jnp.shape(value) != shape:
            raise ValueError(f"{name} must have the node's shape {shape}, got {jnp.shape(value)}")
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
    # outside, rows are no longer 0 or copied behind straight lines: multipliers are added to them
    bent = ~_straight(lines) if kind.polygonal and not outside else True
    if outside:
        reach = jnp.maximum(reach, jnp.abs(z))

    def off(slope: Array, intercept: Array) -> Array:
        """How far the line, as computed, may miss the function and a row the line."""
        steep = jnp.abs(slope)
        numbers = node.gathered(steep * reach) + jnp.abs(intercept) + values
        size = jnp.where(bent, LINES * eps * numbers, 0)
        met = 0.0 if box.noise is None else node.gathered(steep * box.noise.size)
        return size + node.gathered(bend * jnp.maximum(steep, 1) + least * reach) + met

    below = h - (node.gathered(lines.lower_slope * z) + lines.lower_intercept)
    above = node.gathered(lines.upper_slope * z) + lines.upper_intercept - h
    if not outside:
        below, above = _gap(below), _gap(above)
    below += off(lines.lower_slope, lines.lower_intercept)
    above += off(lines.upper_slope, lines.upper_intercept)
    floor = 4 * least * jnp.sum(1 + node.gathered(reach) + jnp.abs(below) + jnp.abs(above))
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
    image = relaxation(node.kind).interval(l, u, *node.args) if box.image is None else box.image
    return l, u, *image


def imaged(where: Region, node: Node, box: Box) -> Box:
    """The box with the interval of the target's values, which many will ask for."""
    return box._replace(image=_ends(where, node, box._replace(image=None))[2:])


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
    return noise(where.graph, where.values, far, seed, live, block=where.block)


def widened(box: Box, noise: Noise) -> Box:
    """The box of computed values as one of exact values."""
    off = noise.size + noise.floor
    last = 2 * jnp.finfo(off.dtype).eps
    lower, upper = box.lower - off, box.upper + off
    return Box(lower - last * jnp.abs(lower), upper + last * jnp.abs(upper), noise)


def relaxed_by(
    where: Region,
    boxes: Sequence[Box],
    methods: Sequence[str],
    alphas: Sequence[Array] | None = None,
    known: dict[str, dict[int, Relaxed]] | None = None,
) -> list[dict[int, Relaxed]]:
    """The lines of the nodes that have boxes, by target id, for each method.

    `known` holds those that were made for the first of these boxes, and the new ones afterwards.
    """
    slopes = [None] * len(boxes) if alphas is None else alphas
    known = {} if known is None else known
    for method in methods:
        lines = known.setdefault(method, {})
        for node, box, alpha in zip(where.graph.nodes, boxes, slopes, strict=False):
            if node.target.id not in lines:
                own = None if method == "interval" else alpha
                lines[node.target.id] = relax(where, node, box, method, own)
    return [dict(known[m]) for m in methods]


def _gap(gap: Array) -> Array:
    return jnp.maximum(gap, 0)
