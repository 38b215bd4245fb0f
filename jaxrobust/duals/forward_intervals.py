"""Intervals pushed forward: the box of a layer by one pass with A and one with |A|.

Where values v = v0 + d deviate by d in [-below, above], with middle m and half-width r,

  A d  lies in  A m -+ |A| r,

the interval arithmetic of Gowal et al. 2018 (arXiv:1810.12715, equation 6). Where every entry of
the layer's rows comes by a single way, this is what rows that stop at the nodes give, for all
units at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxrobust.duals.graph import Ref
from jaxrobust.duals.relaxed_network import Box, Region, relax, widened
from jaxrobust.duals.rounding import (
    MOVES,
    PRODUCTS,
    SLACK,
    Noise,
    Path,
    gamma,
    path_to,
    pushed,
)


def forward_path(where: Region, seed: Ref) -> Path | None:
    """The steps from the nodes before `seed` to it; None where rows may be tighter.

    They are where terms of a sum could cancel (two products in a row, values added up), and at the
    input, whose ball need not be a box.
    """
    graph = where.graph
    ends = {graph.input.id, *(node.target.id for node in graph.nodes)}
    path = path_to(graph, seed, ends, block=where.block)
    straight = path.straight
    for step in path.steps:
        name, sources = step.primitive.name, {s.id for s in step.sources}
        if name in PRODUCTS and not all(t.id in straight for t in step.targets):
            return None
        if graph.input.id in sources or (len(sources) > 1 and name not in MOVES):
            return None
    return path


def interval_box(where: Region, boxes: Sequence[Box], path: Path) -> Box:
    """The box of the path's seed, rounding included, given those of the nodes before it."""
    # the middle is pushed in floats too, and is never larger than the half-width
    off = gamma(sum(c.terms + SLACK for c in path.counts) + SLACK, path.seed.dtype)
    middles, widths = {}, {}
    for node, box in zip(where.graph.nodes, boxes, strict=False):
        lines = relax(where, node, box, "interval")
        middles[node.target.id] = (lines.upper_gap - lines.lower_gap) / 2
        widths[node.target.id] = (1 + 2 * off) * (lines.upper_gap + lines.lower_gap) / 2
    for step in path.steps:
        sources = tuple(middles[s.id] for s in step.sources)
        _, moved = jax.jvp(step.apply, tuple(map(jnp.zeros_like, sources)), sources)
        middles.update((t.id, m) for t, m in zip(step.targets, moved, strict=True))
    size, floor = pushed(path, where.values, widths)
    center = where.values[path.seed.id] + middles[path.seed.id]
    last = 2 * jnp.finfo(center.dtype).eps * jnp.abs(center)
    return widened(Box(center, center), Noise(size + last, floor))
