"""Boxes by rows for few units: those of a wide ReLU layer that interval bounds leave open."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.duals.backward_bounds import Lines, least_losses, node_box, over, unit_row
from jaxrobust.duals.graph import Node
from jaxrobust.duals.relaxed_network import Box, Region, relaxed_by
from jaxrobust.types import Array


def worth_a_bucket(where: Region, node: Node, boxes: Sequence[Box], bucket: int) -> bool:
    """Whether most rows of this node may be spared: a wide ReLU layer behind others."""
    wide = int(np.prod(node.source.shape)) > bucket
    return wide and bool(boxes) and node.kind == "relu" and node.source.id not in where.coloring


def bucket_box(
    where: Region,
    node: Node,
    lines: Sequence[Lines],
    boxes: Sequence[Box],
    bucket: int,
    chunk: int | None,
) -> Box:
    """The interval box, improved for the `bucket` units that it leaves crossing by most.

    A ReLU that does not cross needs no better box: its relaxation is exact.
    """
    seed = node.source
    loose = node_box(where, node, relaxed_by(where, boxes, ("interval",)), chunk)
    low, high = loose.lower.reshape(-1), loose.upper.reshape(-1)
    crossing = (low < 0) & (high > 0)
    chosen = jax.lax.top_k(jnp.where(crossing, high - low, 0), bucket)[1]

    def one(unit: Array) -> tuple[Array, Array]:
        return least_losses(where, lines, seed, unit_row(seed, unit))

    fall, rise = over(one, chosen, chunk)
    z = where.values[seed.id].reshape(-1)[chosen]
    low, high = low.at[chosen].max(z - fall), high.at[chosen].min(z + rise)
    return Box(low.reshape(seed.shape), high.reshape(seed.shape))
