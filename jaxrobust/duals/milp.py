"""A traced network over a ball as a linear or mixed-integer program of sparse matrices."""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import numpy as np
from scipy import sparse

from jaxrobust.duals.graph import Graph, Node
from jaxrobust.duals.lines import Lines
from jaxrobust.duals.matrices import Map, flat
from jaxrobust.duals.relaxations import relaxation
from jaxrobust.duals.relaxed_network import Box
from jaxrobust.threats import L1, Linf
from jaxrobust.types import Array, BoxedBall

Kinks = tuple[tuple[np.ndarray | float, ...], tuple[float, ...]]
_KINKS: dict[str, Callable[..., Kinks]] = {
    "relu": lambda: ((0.0,), (0.0, 1.0)),
    "clip": lambda floor, ceiling: ((np.minimum(floor, ceiling), ceiling), (0.0, 1.0, 0.0)),
}
"""The piecewise linear kinds: where they bend, in order, and the slopes between."""


class Affine(NamedTuple):
    """The values constant + matrix @ v of the program's columns v."""

    matrix: sparse.csr_array
    constant: np.ndarray


class Band(NamedTuple):
    """What a node's target is known to lie in: a range, and between each of several lines."""

    range: Box
    lines: list[Lines]


class Program(NamedTuple):
    """Columns v in [lower, upper] with low <= matrix @ v <= high: the points that a ball allows.

    The first columns are the input's; `input` and `output` are x' and the logits, flat.
    """

    matrix: sparse.csr_array
    low: np.ndarray
    high: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    integral: np.ndarray
    """bool: the column is 0 or 1 in the exact problem, and between them in the relaxed one."""
    clean: np.ndarray
    """The input's columns at the clean example."""
    input: Affine
    output: Affine


def refuse_smooth(graph: Graph) -> None:
    """Raises ValueError, naming the kind, unless all nodes are piecewise linear."""
    for node in graph.nodes:
        if node.kind not in _KINKS:
            raise ValueError(
                f"{node.kind!r} is not piecewise linear: no mixed-integer program is exact for it; "
                f"use lp_bounds, or a network of {sorted(_KINKS)} and what reduces to them"
            )


def refuse_products(graph: Graph) -> None:
    """Raises ValueError if two values that depend on the input are multiplied."""
    if any(node.kind == "product" for node in graph.nodes):
        raise ValueError(
            "linear programs here hold functions of one number, and the network multiplies two "
            "values that depend on the input; take optimized_bounds or lower_bounds"
        )


def goal(program: Program, row: np.ndarray) -> tuple[np.ndarray, float]:
    """row . logits as a linear function of the columns, and its constant."""
    return program.output.matrix.T @ row, float(row @ program.output.constant)


def encode(
    graph: Graph,
    maps: dict[int, Map],
    x: Array,
    threat: BoxedBall,
    boxes: Sequence[Box],
    band: Callable[[Node, Box], Band] | None = None,
) -> Program:
    """The program of a network over the threat set (its pixel box counts) around `x`.

    A unit whose box holds no kink is substituted. One that bends walks through its box piece by
    piece, and a binary column tells for each kink whether it is passed (the incremental method:
    Dantzig 1960; for ReLU as tight as Tjeng et al. 2019, section 4.1). With the binaries anywhere
    in [0, 1] every unit has its convex hull over its box: the ReLUs' triangles (Ehlers 2017).
    Nodes of other kinds lie in `band(node, box)`.

    Raises:
      ValueError: a box is not finite.
    """
    inputs = int(np.prod(graph.input.shape))
    width = 2 * inputs + 5 * sum(int(np.prod(n.source.shape)) for n in graph.nodes)
    columns = _Columns(width)
    values = {graph.input.id: _ball(columns, threat, x)}
    used = columns.count
    for node, box in zip(graph.nodes, boxes, strict=True):
        z = _compose(maps[node.source.id], values)
        l, u = flat(box.lower), flat(box.upper)  # noqa: E741
        if not (np.isfinite(l).all() and np.isfinite(u).all()):
            raise ValueError(
                f"the bounds of a {node.kind!r} of shape {node.source.shape} are not finite: "
                "check x and the weights for NaN, or shrink the radius"
            )
        if node.kind in _KINKS:
            kinks, slopes = _KINKS[node.kind](*(flat(a) for a in node.args))
            start = flat(relaxation(node.kind).function(box.lower, *node.args))
            target = _pieces(columns, z, (l, u), kinks, slopes, start)
        else:
            assert band is not None  # a caller without bands calls `refuse_smooth` first
            target = _between(columns, z, band(node, box))
        values[node.target.id] = target
    clean = np.zeros(used) if isinstance(threat, L1) else flat(x)
    return columns.program(clean, values[graph.input.id], _compose(maps[graph.output.id], values))


@dataclasses.dataclass
class _Columns:
    """The program under construction, its matrices wide enough for all columns to come."""

    width: int
    count: int = 0
    bounds: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = dataclasses.field(
        default_factory=list
    )
    rows: list[tuple[sparse.csr_array, np.ndarray, np.ndarray]] = dataclasses.field(
        default_factory=list
    )

    def add(self, lower: np.ndarray, upper: np.ndarray, *, integral: bool = False) -> np.ndarray:
        index = np.arange(self.count, self.count + len(upper))
        self.count += len(upper)
        self.bounds.append((lower, upper, np.full(len(upper), integral)))
        return index

    def constrain(self, matrix: sparse.csr_array, low: np.ndarray, high: np.ndarray) -> None:
        self.rows.append((matrix, low, high))

    def entries(
        self, rows: np.ndarray, columns: np.ndarray, values: np.ndarray | float, height: int
    ) -> sparse.csr_array:
        values = np.broadcast_to(np.asarray(values, np.float64), rows.shape)
        return sparse.csr_array((values, (rows, columns)), shape=(height, self.width))

    def program(self, clean: np.ndarray, x: Affine, logits: Affine) -> Program:
        lower, upper, integral = (np.concatenate(b) for b in zip(*self.bounds, strict=True))
        nothing = (sparse.csr_array((0, self.width)), np.zeros(0), np.zeros(0))
        matrices, low, high = zip(*self.rows, nothing, strict=True)
        matrix = _csr(_csr(sparse.vstack(matrices, format="csr"))[:, : self.count])
        x, logits = (Affine(_csr(a.matrix[:, : self.count]), a.constant) for a in (x, logits))
        ends = np.concatenate(low), np.concatenate(high)
        return Program(matrix, *ends, lower, upper, integral, clean, x, logits)


def _csr(matrix: object) -> sparse.csr_array:
    """What SciPy's operations give, whose types tell less than their arguments."""
    return cast(sparse.csr_array, matrix)


def _compose(outer: Map, values: dict[int, Affine]) -> Affine:
    """An affine map of values that are affine in the columns."""
    parts = [(m, values[i]) for i, m in outer.matrices.items()]
    constant = outer.constant + sum(m @ inner.constant for m, inner in parts)
    matrix = functools.reduce(operator.add, [m @ inner.matrix for m, inner in parts])
    return Affine(_csr(matrix), constant)


def _ball(columns: _Columns, threat: BoxedBall, x: Array) -> Affine:
    radius, lower, upper = (
        np.broadcast_to(np.asarray(v, x.dtype).astype(np.float64), x.shape).ravel()
        for v in (threat.radius, threat.lower, threat.upper)
    )
    center = flat(x)
    size = len(center)
    every, zero = np.arange(size), np.zeros(size)
    # an example that rounding put outside of its box stays where it is
    down, up = (
        np.minimum(np.maximum(-radius, lower - center), 0),
        np.maximum(np.minimum(radius, upper - center), 0),
    )
    if isinstance(threat, Linf):
        moved = columns.add(center + down, center + up)
        return Affine(columns.entries(every, moved, 1.0, size), zero)
    # shares of the radius spent upward and downward
    scale = np.where(radius > 0, radius, 1)
    rise, fall = columns.add(zero, up / scale), columns.add(zero, -down / scale)
    both, first = np.concatenate([rise, fall]), np.zeros(2 * size, int)
    columns.constrain(columns.entries(first, both, 1.0, 1), np.full(1, -np.inf), np.ones(1))
    matrix = columns.entries(every, rise, radius, size)
    return Affine(matrix - columns.entries(every, fall, radius, size), center)


def _pieces(
    columns: _Columns,
    z: Affine,
    box: tuple[np.ndarray, np.ndarray],
    kinks: Sequence[np.ndarray | float],
    slopes: Sequence[float],
    start: np.ndarray,
) -> Affine:
    """h(z) = start + sum_i slope_i d_i where z = l + sum_i d_i fills one piece after the other."""
    l, u = box  # noqa: E741
    size = len(l)
    ends = np.stack([l, *(np.clip(k, l, u) for k in kinks), u])
    widths = np.diff(ends, axis=0)
    live = widths > 0
    bends = live.sum(axis=0) > 1
    slope = np.where(bends, 0, np.array(slopes) @ live)
    matrix = sparse.diags_array(slope) @ z.matrix
    walked = columns.entries(np.zeros(0, int), np.zeros(0, int), 0.0, size)
    before, filled = np.full(size, -1), np.zeros(size)
    for own_slope, own_width, own in zip(slopes, widths, live & bends, strict=True):
        units = np.flatnonzero(own)
        d = columns.add(np.zeros(len(units)), own_width[units])
        piece = columns.entries(units, d, 1.0, size)
        matrix, walked = matrix + own_slope * piece, walked + piece
        later = before[units] >= 0
        linked, rows = units[later], np.arange(int(later.sum()))
        passed = columns.add(np.zeros(len(linked)), np.ones(len(linked)), integral=True)
        switch = functools.partial(columns.entries, rows, passed, height=len(rows))
        # the piece before is full where the kink is passed, this one empty where it is not
        columns.constrain(
            columns.entries(rows, before[linked], 1.0, len(rows)) - switch(filled[linked]),
            np.zeros(len(rows)),
            np.full(len(rows), np.inf),
        )
        columns.constrain(
            columns.entries(rows, d[later], 1.0, len(rows)) - switch(own_width[linked]),
            np.full(len(rows), -np.inf),
            np.zeros(len(rows)),
        )
        before[units], filled[units] = d, own_width[units]
    units = np.flatnonzero(bends)
    rest = (l - z.constant)[units]
    columns.constrain(_csr(z.matrix - walked)[units], rest, rest)
    return Affine(matrix, start + slope * (z.constant - l))


def _between(columns: _Columns, z: Affine, band: Band) -> Affine:
    """A column per unit, held between each of the lines."""
    size = len(z.constant)
    every, endless = np.arange(size), np.full(size, np.inf)
    target = columns.entries(
        every, columns.add(flat(band.range.lower), flat(band.range.upper)), 1.0, size
    )
    for lines in band.lines:
        below, low, above, high = map(flat, lines)
        for slope, ends in ((below, (low, endless)), (above, (-endless, high))):
            rest = slope * z.constant
            columns.constrain(
                target - sparse.diags_array(slope) @ z.matrix, ends[0] + rest, ends[1] + rest
            )
    return Affine(target, np.zeros(size))
