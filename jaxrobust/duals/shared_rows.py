"""Boxes by few passes: rows over units whose receptive fields are disjoint share one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.duals.backward_bounds import Lines, least_losses, over
from jaxrobust.duals.concretize import support
from jaxrobust.duals.graph import Node
from jaxrobust.duals.relaxed_network import Box, Region
from jaxrobust.duals.rounding import grown
from jaxrobust.duals.row_coloring import RowColoring
from jaxrobust.types import Array


class SharedRows(NamedTuple):
    """A pass of one color: results of shape `[slots]`, told apart by place.

    `fields` are those of `RowColoring`, of this color: `[slots, n]` by `Ref.id`.
    """

    fields: Mapping[int, Array]

    def split(self, value: Array, i: int) -> Array:
        flat = value.reshape(-1)
        return jnp.append(flat, jnp.zeros(1, flat.dtype))[self.fields[i]]

    def dot(self, left: Array, right: Array) -> Array:
        return grown(jax.vmap(jnp.dot)(left, right), left.shape[-1])

    def farthest(self, where: Region, direction: Array) -> Array:
        def one(direction: Array, field: Array) -> Array:
            def along(leaf: Array) -> Array:
                # the coordinate out of range has no direction: any value does
                whole = np.shape(leaf) == where.x.shape and where.x.ndim
                return jnp.asarray(leaf).reshape(-1).at[field].get(mode="clip") if whole else leaf

            threat = jax.tree.map(along, where.threat)
            return support(threat, along(where.x), direction, boxed=where.boxed)

        return jax.vmap(one)(direction, self.fields[where.graph.input.id])


def shared_box(
    where: Region, node: Node, lines: Sequence[Lines], coloring: RowColoring, chunk: int | None
) -> Box:
    """The box of a node's source as `node_box` finds it, by a pass for each color and rank."""
    seed = node.source
    color, rank, slot = (jnp.asarray(v) for v in (coloring.color, coloring.rank, coloring.slot))

    def passes(c: Array) -> tuple[Array, Array]:
        read = SharedRows({i: jnp.asarray(field)[c] for i, field in coloring.fields.items()})

        def one(r: Array) -> tuple[Array, Array]:
            row = ((color == c) & (rank == r)).astype(seed.dtype).reshape(seed.shape)
            return least_losses(where, lines, seed, row, read)

        return jax.vmap(one)(jnp.arange(coloring.ranks, dtype=rank.dtype))

    width = None if chunk is None else max(1, chunk // coloring.ranks)
    fall, rise = over(passes, jnp.arange(coloring.colors, dtype=color.dtype), width)
    z = where.values[seed.id]
    fall, rise = (v[color, rank, slot].reshape(seed.shape) for v in (fall, rise))
    return Box(z - fall, z + rise)
