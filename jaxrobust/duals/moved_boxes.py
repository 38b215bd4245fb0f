"""Boxes of values that are only moved about: by rows for what is moved, each number once.

The products of an attention hold every query and every key many times over.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax.numpy as jnp

from jaxrobust.duals.backward_bounds import Lines, node_box
from jaxrobust.duals.graph import Graph, Node, Ref, Step
from jaxrobust.duals.relaxed_network import Box, Region, rounded, widened
from jaxrobust.duals.rounding import MOVES, path_to


def moved_from(graph: Graph, node: Node) -> list[Ref] | None:
    """The values that a node's source is put together from; None where they are not fewer."""
    makers = {t.id: o for o in graph.operations for t in o.targets}
    bases: dict[int, Ref] = {}
    seen, waiting = set(), [node.source]
    while waiting:
        value = waiting.pop()
        if value.id in seen:
            continue
        seen.add(value.id)
        maker = makers.get(value.id)
        if isinstance(maker, Step) and maker.primitive.name in MOVES - {"neg"}:
            waiting += maker.sources
        else:
            bases[value.id] = value
    size = sum(math.prod(b.shape) for b in bases.values())
    return list(bases.values()) if size < math.prod(node.source.shape) else None


def moved_box(
    where: Region,
    node: Node,
    bases: Sequence[Ref],
    lines: Sequence[Lines],
    boxes: Sequence[Box],
    chunk: int | None,
) -> Box:
    """The box of a node's source, rounding included, from those of its `moved_from`."""
    ends = {}
    for base in bases:
        box = node_box(where, node._replace(source=base), lines, chunk)
        ends[base.id] = widened(box, rounded(where, boxes, base))[:2]
    for before, known in zip(where.graph.nodes, boxes, strict=False):
        if before.target.id in ends and known.image is not None:
            (low, high), (least, most) = ends[before.target.id], known.image
            ends[before.target.id] = jnp.maximum(low, least), jnp.minimum(high, most)
    path = path_to(where.graph, node.source, set(ends), block=where.block)
    for step in path.steps:
        sides = [step.apply(*(ends[s.id][side] for s in step.sources)) for side in (0, 1)]
        ends.update(
            (t.id, pair) for t, pair in zip(step.targets, zip(*sides, strict=True), strict=True)
        )
    return Box(*ends[node.source.id])
