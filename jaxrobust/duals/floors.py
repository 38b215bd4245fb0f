"""Lower bounds of sums of numbers that are never negative, in which nothing cancels.

A sum of squares is at least 0 and one of exponentials at least its largest. Intervals pushed
forward as a middle and a half-width, and rows pulled back, know that only up to the rounding of
their largest numbers, which is too little for a logarithm, a root or a quotient. Where every step
from the nodes to a value grows with what it takes, the values' least ends alone are sent forward.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax

from jaxrobust.duals.graph import Node, Ref, Step
from jaxrobust.duals.relaxed_network import LINES, Box, Region
from jaxrobust.duals.rounding import MOVES, SLACK, gamma, path_to, tiny
from jaxrobust.types import Array

_ADDS = {"add", "add_any", "reduce_sum", "cumsum", "reduce_window_sum"}


def raised(where: Region, node: Node, box: Box, boxes: Sequence[Box]) -> Box:
    """The box of a node's source, its lower end no smaller than what nodes before it imply."""
    graph = where.graph
    ends = {graph.input.id, *(n.target.id for n in graph.nodes)}
    path = path_to(graph, node.source, ends, block=where.block)
    if not path.steps or not all(_grows(step) for step in path.steps):
        return box
    least: dict[int, Array] = {}
    for before, known in zip(graph.nodes, boxes, strict=False):
        assert known.image is not None  # as `hidden_boxes` leaves it
        low = known.image[0]
        off = LINES * jnp.finfo(low.dtype).eps * jnp.abs(low)
        least[before.target.id] = _kept(low - off, low >= 0)
    for step, counts in zip(path.steps, path.counts, strict=True):
        sources = [least.get(s.id, jnp.full(s.shape, -jnp.inf, s.dtype)) for s in step.sources]
        moved = step.apply(*sources)
        if step.primitive.name not in MOVES:
            moved = [_rounded_down(step, m, sources, counts.terms) for m in moved]
        least.update((t.id, m) for t, m in zip(step.targets, moved, strict=True))
    floor = least[node.source.id]
    # NaN, of infinite ends, says nothing
    floor = jnp.where(jnp.isnan(floor), -jnp.inf, floor)
    return box._replace(
        lower=jnp.maximum(box.lower, floor), upper=jnp.maximum(box.upper, floor), image=None
    )


def _grows(step: Step) -> bool:
    """Whether no output falls where an operand rises, as far as the primitive tells."""
    name = step.primitive.name
    if name in ("mul", "div"):
        # the sign of the constant is looked at entry by entry
        return len(step.sources) == 1 and (name == "mul" or isinstance(step.operands[0], Ref))
    if name == "sub":
        return isinstance(step.operands[0], Ref) and len(step.sources) == 1
    return name in _ADDS or (name in MOVES and name != "neg")


def _rounded_down(step: Step, value: Array, sources: list[Array], terms: float) -> Array:
    """What a step makes of least ends, less its rounding."""
    count = terms + SLACK
    constants = [o for o in step.operands if not isinstance(o, Ref)]
    if step.primitive.name in ("mul", "div"):
        (factor,) = constants
        value = jnp.where(factor >= 0, value, -jnp.inf)
        positive = sources[0] >= 0
        size = jnp.abs(value)
    elif step.primitive.name in ("reduce_sum", "cumsum", "reduce_window_sum"):
        (source,) = sources
        size = step.apply(jnp.abs(source))[0]
        positive = step.apply((source < 0).astype(source.dtype))[0] == 0
    else:
        terms_here = [*sources, *(_signed(step, c) for c in constants)]
        size = sum(map(jnp.abs, terms_here))
        positive = jnp.all(jnp.stack(jnp.broadcast_arrays(*(t >= 0 for t in terms_here))), axis=0)
    off = gamma(count, value.dtype) * size + count * tiny(value.dtype)
    return _kept(value - off, positive)


def _signed(step: Step, constant: Any) -> Array:
    return -jnp.asarray(constant) if step.primitive is lax.sub_p else jnp.asarray(constant)


def _kept(value: Array, positive: Array) -> Array:
    """At least 0 where it must be."""
    return jnp.where(positive, jnp.maximum(value, 0), value)
