"""The bound itself, row by row: one backward pass through the relaxed network.

The dual network is the vjp of the relaxed network. With h a node's value at the clean example and
nu the cotangent that a row c leaves there, the linear lower bound of c.f differs from c.f at the
clean example by what its lines give away, so that over the ball

  c.f(x') >= c.f(x) - max_d <-nu_x, d> - sum_j relu(nu_j) (h - lower)_j + relu(-nu_j) (upper - h)_j.

This needs no biases and adds non-negative terms only. With Wong-Kolter's slopes it is the dual
objective J of Wong's thesis (theorem 1 and algorithm 1, with the signs corrected). Rows that share
a pass (`shared_rows`) and rows that are spared (`buckets`) are matters of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

import jax
import jax.numpy as jnp

from jaxrobust.duals.concretize import support
from jaxrobust.duals.graph import Node, Ref, pull
from jaxrobust.duals.relaxed_network import Box, Region, Relaxed
from jaxrobust.duals.rounding import grown
from jaxrobust.types import Array

Lines = Mapping[int, Relaxed]
"""The lines of every node before some value, by target id."""
Rows = TypeVar("Rows")
Results = TypeVar("Results")


class Reading(Protocol):
    """How the numbers of a bound are read off what a pass brings back."""

    def split(self, value: Array, i: int) -> Array:
        """`value` of the input or of node `i`, its entries along the last axis."""
        ...

    def dot(self, left: Array, right: Array) -> Array:
        """Dot products over the last axis, of numbers >= 0, rounded up."""
        ...

    def farthest(self, where: Region, direction: Array) -> Array:
        """max `<direction, x' - x>` over the ball, of a split direction."""
        ...


class OneRow:
    """A pass that holds one row: scalars."""

    def split(self, value: Array, i: int) -> Array:
        return value.reshape(-1)

    def dot(self, left: Array, right: Array) -> Array:
        return grown(left @ right, left.shape[-1])

    def farthest(self, where: Region, direction: Array) -> Array:
        return support(where.threat, where.x, direction.reshape(where.x.shape), boxed=where.boxed)


def pulled_row(
    where: Region, relaxed: Lines, seed: Ref, row: Array
) -> tuple[Array, dict[int, Array]]:
    """What `row`, of the seed's shape, leaves at the input and at the nodes' targets, by id."""

    def slope(node: Node, nu: Array) -> Array | None:
        r = relaxed[node.target.id]
        if r.lower_slope is None or r.upper_slope is None:
            return None
        nu = node.spread(nu)
        if r.parallel:
            return nu * r.lower_slope
        return jax.nn.relu(nu) * r.lower_slope - jax.nn.relu(-nu) * r.upper_slope

    return pull(where.graph, seed, row, slope)


def row_losses(
    where: Region,
    relaxed: Lines,
    seed: Ref,
    row: Array,
    *,
    both: bool,
    read: Reading | None = None,
) -> tuple[Array, ...]:
    """How far row . value can fall below its value at `x`, and with `both` how far rise above.

    Args:
      relaxed: the lines of the nodes before `seed`.
      row: of the seed's shape.
      both: whether the rise is wanted too.
      read: tells the rows of a pass apart that holds a sum of several; by default it holds one.

    Returns:
      (fall,) or (fall, rise): scalars, or what `read` makes of a pass.
    """
    read = OneRow() if read is None else read

    def pulled(row: Array) -> tuple[Array, dict[int, Array]]:
        nu_x, reached = pulled_row(where, relaxed, seed, row)
        reached = {i: read.split(nu, i) for i, nu in reached.items()}
        return read.split(nu_x, where.graph.input.id), reached

    def give(reached: dict[int, Array]) -> Array | float:
        total = 0.0
        for i, nu in reached.items():
            r = relaxed[i]
            total = total + r.floor
            for part, gap in ((nu, r.lower_gap), (-nu, r.upper_gap)):
                total = total + read.dot(jax.nn.relu(part), read.split(gap, i))
        return total

    nu_x, reached = pulled(row)
    far = read.farthest(where, -nu_x)
    first = grown(far + give(reached), len(reached))
    if not both:
        return (first,)
    if not all(relaxed[i].parallel for i in reached):
        nu_x, reached = pulled(-row)
        return first, grown(read.farthest(where, -nu_x) + give(reached), len(reached))
    # a ball is symmetric, its box is not
    far = read.farthest(where, nu_x) if where.boxed else far
    return first, grown(far + give({i: -nu for i, nu in reached.items()}), len(reached))


def least_losses(
    where: Region,
    lines: Sequence[Lines],
    seed: Ref,
    row: Array,
    read: Reading | None = None,
) -> tuple[Array, Array]:
    """(fall, rise) by the best of several lines; see `row_losses`."""
    found = [row_losses(where, by, seed, row, both=True, read=read) for by in lines]
    fall, rise = (jnp.stack(side).min(axis=0) for side in zip(*found, strict=True))
    return fall, rise


def unit_row(seed: Ref, unit: Array) -> Array:
    """The row of the seed's shape that is 1 at `unit`, a flat index."""
    return jax.nn.one_hot(unit, math.prod(seed.shape), dtype=seed.dtype).reshape(seed.shape)


def node_box(where: Region, node: Node, lines: Sequence[Lines], chunk: int | None) -> Box:
    """The box of a node's source, by a row for each of its units, `chunk` rows at a time."""
    seed, z = node.source, where.values[node.source.id]

    def one(unit: Array) -> tuple[Array, Array]:
        # rows of a pass have an axis, here of length 1, as in `shared_rows`: rounding depends on it
        rows = unit_row(seed, unit)[None]
        return jax.vmap(lambda row: least_losses(where, lines, seed, row))(rows)

    units = jnp.arange(z.size, dtype=jnp.int32)
    fall, rise = over(one, units, chunk)
    # gathered, as colors are: the compiler would else contract the last product and the difference
    zero = jnp.zeros_like(units)
    fall, rise = (v[units, zero].reshape(seed.shape) for v in (fall, rise))
    return Box(z - fall, z + rise)


def over(function: Callable[[Rows], Results], rows: Rows, chunk: int | None) -> Results:
    """`vmap` over the leading axis, or `chunk` at a time, rematerialized in the backward pass."""
    if chunk is None:
        return jax.vmap(function)(rows)
    return jax.lax.map(jax.checkpoint(function), rows, batch_size=chunk)
