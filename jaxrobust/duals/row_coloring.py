"""Which rows of a dual network can share one backward pass: those with disjoint receptive fields.

The units of a convolution see few inputs each. Rows over units whose receptive fields do not meet
are summed into one cotangent, and what comes back is told apart by place: the compression of
sparse Jacobians by coloring (Curtis, Powell & Reid 1974), exact for any network. On Wong's small
MNIST network 1,568 rows of the second layer become 288.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxrobust.duals.graph import Graph, Node, Ref, Step, run

_LARGEST = 1 << 29
"""Receptive-field entries above which no sharing is looked for: half a gigabyte of booleans."""


class RowColoring(NamedTuple):
    """How the rows of one node share backward passes: unit -> (color, rank), slot.

    A pass is a color (a set of places whose receptive fields are disjoint) and a rank (which of
    the units at each place: the channel). A place has a slot within its color.
    """

    color: np.ndarray
    rank: np.ndarray
    slot: np.ndarray
    """int32 [units] each."""
    fields: dict[int, np.ndarray]
    """Fields by the `Ref.id` of the input and of each earlier node's target: int32 [colors, slots,
    n], the coordinates that a place can depend on, filled up with the first number out of range."""

    @property
    def colors(self) -> int:
        """How many sets of disjoint places there are."""
        return int(self.color.max()) + 1

    @property
    def slots(self) -> int:
        """The most places that share a color."""
        return int(self.slot.max()) + 1

    @property
    def ranks(self) -> int:
        """The most units at one place."""
        return int(self.rank.max()) + 1


def row_coloring(graph: Graph) -> dict[int, RowColoring]:
    """What rows can share, by the `Ref.id` of a node's source; other nodes share nothing.

    Finds the receptive fields of all nodes by sending NaN through the affine steps with ones for
    parameters. A NaN reaches whatever may depend on an input, zero weights or not, so the result
    holds for all values of the parameters; it is kept for networks of the same structure. Empty
    where nothing can be shared: some unit sees no input at all, a predicate or index is traced,
    or the network is too large.
    """
    size = int(np.prod(graph.input.shape))
    units = sum(int(np.prod(n.source.shape)) for n in graph.nodes)
    steps = [o for o in graph.operations if isinstance(o, Step)]
    opaque = any(_is_opaque(c) for s in steps for c in s.operands)
    if opaque or not graph.nodes or size * units > _LARGEST:
        return {}
    bare = graph._replace(operations=tuple(_bare(o) for o in graph.operations))
    return _row_coloring(_Structure(_key(bare), bare))


@dataclasses.dataclass(frozen=True)
class _Structure:
    """A graph without parameters, compared by its key."""

    key: tuple[Any, ...]
    graph: Graph = dataclasses.field(compare=False)


@functools.lru_cache(maxsize=64)
def _row_coloring(structure: _Structure) -> dict[int, RowColoring]:
    graph = structure.graph
    size = int(np.prod(graph.input.shape))
    sources = [n.source.id for n in graph.nodes]

    def reached(hot: jax.Array) -> list[jax.Array]:
        x = jnp.where(jnp.arange(size) == hot, jnp.nan, 0).astype(graph.input.dtype)
        values = run(graph, x.reshape(graph.input.shape), lambda node, z: node.gathered(z))
        return [jnp.isnan(values[i]).reshape(-1) for i in sources]

    with jax.ensure_compile_time_eval():
        fields = jax.lax.map(jax.jit(reached), jnp.arange(size), batch_size=min(size, 64))
    seen = [np.asarray(f) for f in fields]
    if not all(f.any(axis=0).all() for f in seen):
        return {}
    found = {}
    before = {graph.input.id: np.eye(size, dtype=bool)}
    for node, field in zip(graph.nodes, seen, strict=True):
        coloring = _color(field, before)
        if coloring is not None:
            found[node.source.id] = coloring
        # of a product's pairs, either reaches it
        pairs = field.reshape(size, -1, int(np.prod(node.target.shape)))
        before[node.target.id] = np.any(pairs, axis=1)
    return found


def _is_opaque(operand: object) -> bool:
    return isinstance(operand, Tracer) and not jnp.issubdtype(operand.dtype, jnp.floating)


def _bare(operation: Step | Node) -> Step | Node:
    """The operation with ones for its floating-point constants."""
    if isinstance(operation, Node):
        return Node("", operation.source, operation.target)

    def plain(operand: Any) -> Any:
        if isinstance(operand, Ref) or not jnp.issubdtype(operand.dtype, jnp.floating):
            return operand
        return np.broadcast_to(np.ones((), operand.dtype), operand.shape)

    return operation._replace(operands=tuple(map(plain, operation.operands)))


def _key(graph: Graph) -> tuple[Any, ...]:
    """Equal for bare graphs that compute the same."""

    def name(operand: Any) -> Any:
        if isinstance(operand, Ref):
            return operand
        array = np.asarray(operand)
        floating = jnp.issubdtype(array.dtype, jnp.floating)
        return array.shape, str(array.dtype), b"" if floating else array.tobytes()

    lines: list[Any] = [graph.input, graph.output]
    for operation in graph.operations:
        if isinstance(operation, Node):
            lines.append(operation)
        else:
            settings = sorted((k, repr(v)) for k, v in operation.params.items())
            operands = tuple(map(name, operation.operands))
            lines.append((operation.primitive.name, tuple(settings), operands, operation.targets))
    return tuple(lines)


def _color(field: np.ndarray, before: dict[int, np.ndarray]) -> RowColoring | None:
    """Colors a node's places greedily; `field` is bool `[inputs, units]`, `before` the same.

    None where at most half of the passes would be saved.
    """
    places, first, place = _places(field)
    meets = places @ places.T > 0
    color = np.full(len(places), -1)
    slot = np.zeros(len(places), np.int32)
    # in the order of the units, which packs neighboring places tightly
    for p in np.argsort(first):
        color[p] = np.setdiff1d(np.arange(len(places)), color[meets[p]])[0]
        slot[p] = np.sum(color == color[p]) - 1
    counts = np.bincount(place)
    if 2 * (color.max() + 1) * counts.max() > len(place):
        return None
    rank = np.empty(len(place), np.int32)
    rank[np.argsort(place, kind="stable")] = _count_up(counts)
    color = color.astype(np.int32)
    return RowColoring(
        color[place],
        rank,
        slot[place],
        {i: _coordinates(places, earlier, color, slot) for i, earlier in before.items()},
    )


def _places(field: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct receptive fields, float `[places, inputs]`; each one's first unit; unit -> place."""
    packed = np.packbits(field.T, axis=1)
    _, first, place = np.unique(packed, axis=0, return_index=True, return_inverse=True)
    return field[:, first].T.astype(np.float32), first, place.reshape(-1)


def _count_up(counts: np.ndarray) -> np.ndarray:
    """0, 1, ... anew for each of `counts`."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


def _coordinates(
    places: np.ndarray, earlier: np.ndarray, color: np.ndarray, slot: np.ndarray
) -> np.ndarray:
    """The earlier units inside each place's receptive field, `[colors, slots, n]`.

    A unit that a row reaches sees nothing that the row does not, so it is among them.
    """
    theirs, _, place = _places(earlier)
    inside = ((1 - places) @ theirs.T == 0)[:, place]
    counts = inside.sum(axis=1)
    units = earlier.shape[1]
    result = np.full((color.max() + 1, slot.max() + 1, counts.max()), units, np.int32)
    row, unit = np.nonzero(inside)
    result[color[row], slot[row], _count_up(counts)] = unit
    return result
