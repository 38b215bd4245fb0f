"""Bounds of networks over balls: interval, Wong-Kolter, CROWN, and the best of several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypedDict, TypeVar, Unpack

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import checks
from jaxrobust.duals.backward_bounds import (
    Box,
    Region,
    Relaxed,
    live,
    losses,
    prepare,
    relax,
    rounded,
)
from jaxrobust.duals.graph import Node, Ref
from jaxrobust.duals.rounding import SLACK, Noise, gamma, grown
from jaxrobust.duals.row_coloring import RowColoring
from jaxrobust.types import Array, LogitsFn, ThreatModel

METHODS = ("interval", "wong_kolter", "crown")
"""The relaxations that bounds are taken from."""

Rows = TypeVar("Rows")
Results = TypeVar("Results")


class BoundOptions(TypedDict, total=False):
    """The options of `lower_bounds`, as those that pass them on take them."""

    methods: Sequence[str]
    boxed: bool
    chunk: int | None
    bucket: int | None


def hidden_boxes(
    where: Region,
    *,
    methods: Sequence[str],
    alphas: Sequence[Array] | None = None,
    within: Sequence[Box] | None = None,
    chunk: int | None = None,
    bucket: int | None = None,
) -> tuple[Box, ...]:
    """Bounds of every node's source, in order: at each the best of `methods`, on those before it.

    Nodes that see the input directly get the closed form of their affine map: eps times the dual
    norm of its rows. Rows whose receptive fields are disjoint share a backward pass
    (`row_coloring`). `alphas`, one array of each node's shape, replace the methods' own slopes but
    the interval's; boxes are intersected with `within` where given. `bucket`: see `lower_bounds`.
    """
    boxes: list[Box] = []
    with jax.default_matmul_precision("highest"):
        for index, node in enumerate(where.graph.nodes):
            lines = relaxed_by(where, boxes, methods, alphas)
            if bucket is not None and _worth_a_bucket(where, node, boxes, bucket):
                loose = relaxed_by(where, boxes, ("interval",))
                loose = _node_box(where, node, loose, chunk)
                box = _open_box(where, node, lines, loose, bucket, chunk)
            else:
                box = _node_box(where, node, lines, chunk)
            box = widened(box, rounded(where, boxes, node.source))
            if within is not None:
                lower, upper = within[index][:2]
                lower, upper = jnp.maximum(box.lower, lower), jnp.minimum(box.upper, upper)
                box = box._replace(lower=lower, upper=upper)
            # rows to come are 0 where the unit is constant on its box, and so is their rounding
            own = rounded(where, boxes, node.source, live(where, node, box))
            boxes.append(box._replace(noise=own))
    return tuple(boxes)


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
) -> list[dict[int, Relaxed]]:
    """The lines of the nodes that have boxes, by target id, for each method."""
    slopes = [None] * len(boxes) if alphas is None else alphas
    return [
        {
            node.target.id: relax(where, node, box, m, None if m == "interval" else alpha)
            for node, box, alpha in zip(where.graph.nodes, boxes, slopes, strict=False)
        }
        for m in methods
    ]


def _node_box(
    where: Region, node: Node, lines: Sequence[dict[int, Relaxed]], chunk: int | None
) -> Box:
    seed = node.source
    size = int(np.prod(seed.shape))
    shared = where.coloring.get(seed.id)
    plan = _alone(size) if shared is None else shared
    color, rank, slot = (jnp.asarray(v) for v in (plan.color, plan.rank, plan.slot))

    def passes(c: Array) -> tuple[Array, Array]:
        fields = None
        if shared is not None:
            fields = {i: jnp.asarray(field)[c] for i, field in plan.fields.items()}

        def one(r: Array) -> tuple[Array, Array]:
            row = ((color == c) & (rank == r)).astype(seed.dtype).reshape(seed.shape)
            fall, rise = _least(where, lines, seed, row, fields)
            return fall.reshape(plan.slots), rise.reshape(plan.slots)

        return jax.vmap(one)(jnp.arange(plan.ranks, dtype=rank.dtype))

    width = None if chunk is None else max(1, chunk // plan.ranks)
    fall, rise = over(passes, jnp.arange(plan.colors, dtype=color.dtype), width)
    z = where.values[seed.id]
    fall, rise = (v[color, rank, slot].reshape(seed.shape) for v in (fall, rise))
    return Box(z - fall, z + rise)


def _least(
    where: Region,
    lines: Sequence[dict[int, Relaxed]],
    seed: Ref,
    row: Array,
    fields: dict[int, Array] | None = None,
) -> tuple[Array, Array]:
    """How far row . seed falls and rises by the best of several lines, as `losses` does by one."""
    found = [losses(where, by, seed, row, fields, both=True) for by in lines]
    fall, rise = (jnp.stack(side).min(axis=0) for side in zip(*found, strict=True))
    return fall, rise


def _worth_a_bucket(where: Region, node: Node, boxes: Sequence[Box], bucket: int) -> bool:
    """Whether most rows of this node may be spared: a wide ReLU layer behind others."""
    wide = int(np.prod(node.source.shape)) > bucket
    return wide and bool(boxes) and node.kind == "relu" and node.source.id not in where.coloring


def _open_box(
    where: Region,
    node: Node,
    lines: Sequence[dict[int, Relaxed]],
    loose: Box,
    bucket: int,
    chunk: int | None,
) -> Box:
    """`loose`, improved for the `bucket` units that it leaves crossing by most.

    A ReLU that does not cross needs no better box: its relaxation is exact.
    """
    seed = node.source
    low, high = loose.lower.reshape(-1), loose.upper.reshape(-1)
    crossing = (low < 0) & (high > 0)
    chosen = jax.lax.top_k(jnp.where(crossing, high - low, 0), bucket)[1]

    def one(unit: Array) -> tuple[Array, Array]:
        row = jax.nn.one_hot(unit, low.size, dtype=seed.dtype).reshape(seed.shape)
        return _least(where, lines, seed, row)

    fall, rise = over(one, chosen, chunk)
    z = where.values[seed.id].reshape(-1)[chosen]
    low = low.at[chosen].max(z - fall)
    high = high.at[chosen].min(z + rise)
    return Box(low.reshape(seed.shape), high.reshape(seed.shape))


def _alone(size: int) -> RowColoring:
    """Every row in a pass of its own."""
    index, zero = np.arange(size, dtype=np.int32), np.zeros(size, np.int32)
    return RowColoring(index, zero, zero, {})


def over(function: Callable[[Rows], Results], rows: Rows, chunk: int | None) -> Results:
    """`vmap` over the leading axis, or `chunk` at a time, rematerialized in the backward pass."""
    if chunk is None:
        return jax.vmap(function)(rows)
    return jax.lax.map(jax.checkpoint(function), rows, batch_size=chunk)


def row_bounds(
    where: Region,
    C: Array,
    boxes: Sequence[Box],
    *,
    methods: Sequence[str],
    alphas: Sequence[Array] | None = None,
    chunk: int | None = None,
) -> Array:
    """Lower bounds `[rows]` of `C @ logits` given the boxes of all nodes: the best of `methods`.

    `alphas`, one array `[rows, *shape]` per node, replace the methods' own slopes but the
    interval's.
    """
    seed = where.graph.output

    def one(args: tuple[Array, Sequence[Array] | None]) -> Array:
        row, slopes = args
        lines = relaxed_by(where, boxes, methods, slopes)
        return jnp.stack([losses(where, by, seed, row, both=False)[0] for by in lines]).min()

    with jax.default_matmul_precision("highest"):
        fall = over(one, (C, None if alphas is None else tuple(alphas)), chunk)
        logits, noise = where.values[seed.id], rounded(where, boxes, seed)
        products = gamma(C.shape[1] + SLACK, seed.dtype) * (jnp.abs(C) @ jnp.abs(logits))
        off = grown(jnp.abs(C) @ noise.size + products, C.shape[1]) + fall + noise.floor
        clean = C @ logits
        lower = clean - off - 2 * jnp.finfo(seed.dtype).eps * (jnp.abs(clean) + off)
        # a row of zeros has nothing to lose
        return jnp.where(jnp.any(C != 0, axis=1), lower, clean)


def lower_bounds(
    f: LogitsFn,
    x: Array,
    C: Array,
    threat: ThreatModel,
    *,
    methods: Sequence[str] = ("interval", "wong_kolter"),
    boxed: bool = False,
    chunk: int | None = None,
    bucket: int | None = None,
) -> Array:
    """Lower bounds `[rows]` on `C @ f(x')` over all x' in the ball around `x`.

    `f` is any pure function of one example (`trace` says which operations it may hold) and `C` is
    `[rows, K]`. Every bound is the best of `methods`: "wong_kolter" is the dual of Wong's thesis
    (section 3.2; Fast-Lin), "crown" takes the slope 0 or 1 that relaxes less (Zhang et al. 2018),
    "interval" propagates boxes. ("wong_kolter",) alone is the released code's bound, to rounding.
    With "interval" among them, bounds are never looser than interval bounds; otherwise more methods
    are tighter on most rows but not on all, since the slopes follow the boxes.

    The bounds contain what float rounding can take away, proved under the assumptions of
    docs/soundness.md: a float32 bound is one of the network in real arithmetic. NaN means no
    bound. With `boxed` the threat's pixel box counts (`support`). `chunk` rows are pulled back
    at a time, to save memory; on CPUs about 100 / batch rows are fastest as well, since caches
    hold them. With `bucket`, a wide ReLU layer pulls rows only for so many units, those that
    interval bounds leave crossing zero by most: the others keep interval bounds, which changes
    nothing where they do not cross, and is looser, never wrong, where the bucket was too small.

    Differentiable in `x`, the radius and whatever parameters `f` closes over, through slopes and
    intermediate bounds alike. `vmap` it over examples, radii or matrices `C`; a new radius does
    not recompile. Raises ValueError (also `UnsupportedOperation`) for what cannot be bounded.
    """
    if bucket is not None:
        checks.at_least("bucket", bucket, 1)
    where = prepare(f, x, threat, boxed=boxed)
    C = check_request(where, C, methods)
    boxes = hidden_boxes(where, methods=methods, chunk=chunk, bucket=bucket)
    return row_bounds(where, C, boxes, methods=methods, chunk=chunk)


def check_request(where: Region, C: Array, methods: Sequence[str]) -> Array:
    """`C` in the logits' type; ValueError for a wrong shape or an unknown or missing method."""
    if isinstance(methods, str) or not methods:
        raise ValueError(f"methods must be a sequence of {METHODS}, got {methods!r}")
    for method in methods:
        checks.choice("method", method, METHODS)
    output = where.graph.output
    if jnp.ndim(C) != 2 or jnp.shape(C)[1] != output.shape[0]:
        raise ValueError(f"C must have shape [rows, {output.shape[0]}], got {jnp.shape(C)}")
    return jnp.asarray(C, output.dtype)


def margin_rows(y: Array, num_classes: int, dtype: jnp.dtype) -> Array:
    """`[K, K]`: row j is e_y - e_j, zero for the label `y` itself."""
    eye = jnp.eye(num_classes, dtype=dtype)
    return eye[y][None] - eye


def margin_bounds(
    f: LogitsFn, x: Array, y: Array, threat: ThreatModel, **options: Unpack[BoundOptions]
) -> Array:
    """Lower bounds `[K]` on f_y(x') - f_j(x') over the ball; 0 at j = y.

    Positive at every other class proves the label for the whole ball; their negatives are the
    robust logits of Wong's thesis (section 3.1.4). `options` are those of `lower_bounds`.
    """
    logits = jax.eval_shape(f, x)
    return lower_bounds(f, x, margin_rows(y, logits.shape[0], logits.dtype), threat, **options)
