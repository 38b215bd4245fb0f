"""Bounds of networks over balls: interval, Wong-Kolter, CROWN, and the best of several."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxrobust import checks
from jaxrobust.duals.backward_bounds import Lines, node_box, over, row_losses
from jaxrobust.duals.buckets import bucket_box, worth_a_bucket
from jaxrobust.duals.floors import raised
from jaxrobust.duals.forward_intervals import forward_path, interval_box
from jaxrobust.duals.graph import Node
from jaxrobust.duals.moved_boxes import moved_box, moved_from
from jaxrobust.duals.relaxations import relaxation
from jaxrobust.duals.relaxed_network import (
    Box,
    Region,
    Relaxed,
    check_methods,
    imaged,
    live,
    prepare,
    relaxed_by,
    rounded,
    widened,
)
from jaxrobust.duals.rounding import BLOCK, COARSE, SLACK, Noise, gamma, grown
from jaxrobust.duals.shared_rows import shared_box
from jaxrobust.duals.trace import logits_of
from jaxrobust.types import Array, LogitsFn, ThreatModel


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
    (`shared_rows`).

    Args:
      where: the network on its ball, from `prepare`.
      methods, chunk, bucket: see `lower_bounds`.
      alphas: for each node in order an array of its shape, in place of the methods' own slopes but
        the interval's.
      within: boxes of all nodes in order, with which these are intersected.

    Returns:
      A `Box` for each of `where.graph.nodes`, in order: `lower` and `upper`, of the shape and dtype
      of the node's source, which contain what float rounding can do; and `noise`, that rounding for
      the rows of later bounds.

    Raises:
      ValueError: an unknown method or none, a `chunk` below 1, or `alphas` or `within` of another
        number of nodes.
    """
    check_methods(methods)
    _check_chunk(chunk)
    for name, given in (("alphas", alphas), ("within", within)):
        if given is not None:
            _require_each(where, name, given)
    boxes: list[Box] = []
    made: dict[str, dict[int, Relaxed]] = {}
    rows_pass = set(methods) != {"interval"}
    with jax.default_matmul_precision("highest"):
        for index, node in enumerate(where.graph.nodes):
            path = None if rows_pass else forward_path(where, node.source)
            if path is not None:
                box = interval_box(where, boxes, path)
            else:
                # outside of its domain, a function has no bound: no looser than by intervals
                limited = relaxation(node.kind).limited and "interval" not in methods
                tried = (*methods, "interval") if limited else methods
                lines = relaxed_by(where, boxes, tried, alphas, made)
                box = _pulled_box(where, node, lines, boxes, chunk, bucket)
            if relaxation(node.kind).limited:
                box = raised(where, node, box, boxes)
            if within is not None:
                lower, upper = within[index][:2]
                lower, upper = jnp.maximum(box.lower, lower), jnp.minimum(box.upper, upper)
                box = box._replace(lower=lower, upper=upper)
            if rows_pass:
                # they are 0 where the unit is constant on its box, and so is their rounding
                own = rounded(where, boxes, node.source, live(where, node, box))
                box = box._replace(noise=own)
            boxes.append(imaged(where, node, box))
    return tuple(boxes)


def _pulled_box(
    where: Region,
    node: Node,
    lines: Sequence[Lines],
    boxes: Sequence[Box],
    chunk: int | None,
    bucket: int | None,
) -> Box:
    """The box of a node's source by rows that are pulled back, rounding included."""
    coloring = where.coloring.get(node.source.id)
    bases = moved_from(where.graph, node) if node.kind == "product" else None
    if bases is not None:
        return moved_box(where, node, bases, lines, boxes, chunk)
    if bucket is not None and worth_a_bucket(where, node, boxes, bucket):
        box = bucket_box(where, node, lines, boxes, bucket, chunk)
    elif coloring is not None:
        box = shared_box(where, node, lines, coloring, chunk)
    else:
        box = node_box(where, node, lines, chunk)
    return widened(box, rounded(where, boxes, node.source))


def row_bounds(
    where: Region,
    C: Array,
    boxes: Sequence[Box],
    *,
    methods: Sequence[str],
    alphas: Sequence[Array] | None = None,
    chunk: int | None = None,
) -> Array:
    """Lower bounds of `C @ logits` given the boxes of all nodes: the best of `methods`.

    Args:
      where: the network on its ball, from `prepare`.
      C: `[rows, K]`, in the logits' dtype.
      boxes: the boxes of all nodes in order, as `hidden_boxes` returns them.
      methods, chunk: see `lower_bounds`.
      alphas: for each node in order an array `[rows, *shape]`, where shape is the node's, in place
        of the methods' own slopes but the interval's.

    Returns:
      The bounds, `[rows]`, in the logits' dtype and in units of `C @ logits`; they contain what
      float rounding can take away. NaN means no bound.

    Raises:
      ValueError: a `C` of another shape, an unknown method or none, a `chunk` below 1, or `boxes`
        or `alphas` of another number of nodes.
    """
    _check_chunk(chunk)
    C = check_request(where, C, methods)
    _require_each(where, "boxes", boxes)
    if alphas is not None:
        _require_each(where, "alphas", alphas)
    seed = where.graph.output

    def one(args: tuple[Array, Sequence[Array] | None]) -> Array:
        row, slopes = args
        lines = relaxed_by(where, boxes, methods, slopes)
        return jnp.stack([row_losses(where, by, seed, row, both=False)[0] for by in lines]).min()

    with jax.default_matmul_precision("highest"):
        fall = over(one, (C, None if alphas is None else tuple(alphas)), chunk)
        return fallen(where, C, fall, rounded(where, boxes, seed))


def fallen(where: Region, C: Array, fall: Array, noise: Noise) -> Array:
    """Lower bounds of `C @ logits` from how far the rows, as computed, can fall below `x`'s values.

    Args:
      C: `[rows, K]`.
      fall: `[rows]`; below 0 where a row rises, as it may on a part of the region.
      noise: what rounding can do to the logits.
    """
    logits = where.values[where.graph.output.id]
    products = gamma(C.shape[1] + SLACK, logits.dtype) * (jnp.abs(C) @ jnp.abs(logits))
    off = grown(jnp.abs(C) @ noise.size + products, C.shape[1]) + noise.floor
    clean, last = C @ logits, 2 * jnp.finfo(logits.dtype).eps
    lower = clean - off - fall - last * (jnp.abs(clean) + off + jnp.abs(fall))
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
    """Lower bounds on `C @ f(x')` over all x' in the ball around `x`.

    The bounds contain what float rounding can take away, proved under the assumptions of
    docs/soundness.md: a float32 bound is one of the network in real arithmetic.

    Differentiable in `x`, the radius and whatever parameters `f` closes over, through slopes and
    intermediate bounds alike. `vmap` it over examples, radii or matrices `C`; a new radius does
    not recompile.

    Args:
      f: any pure function of one example; `trace` says which operations it may hold.
      x: one example of any shape, float32 or float64.
      C: `[rows, K]` for K logits.
      threat: a Linf, L2 or L1 ball or a union of them. Its radius may be an array of `x`'s shape.
      methods: each bound is the best of them. "wong_kolter" is the dual of Wong's thesis (section
        3.2; Fast-Lin), "crown" takes the slope 0 or 1 that relaxes less (Zhang et al. 2018),
        "interval" propagates boxes. ("wong_kolter",) alone is the released code's bound, to
        rounding. With "interval" among them, bounds are never looser than interval bounds;
        otherwise more methods are tighter on most rows but not on all, since the slopes follow
        the boxes.
      boxed: whether the threat's pixel box counts (`support`).
      chunk: rows that are pulled back at a time, to save memory; on CPUs about 100 / batch rows
        are fastest as well, since caches hold them.
      bucket: a wide ReLU layer pulls rows only for so many units, those that interval bounds leave
        crossing zero by most. The others keep interval bounds, which changes nothing where they
        do not cross, and is looser, never wrong, where the bucket was too small.

    Returns:
      The bounds, `[rows]`, in the logits' dtype and in units of `C @ f(x')`. NaN means no bound.

    Raises:
      ValueError: an unknown method or none, a `C` of another shape, `chunk` or `bucket` below 1, or
        as `prepare`, also as `UnsupportedOperation`, for what cannot be bounded.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxrobust import duals, threats
      >>> f = lambda x: jax.nn.relu(x) - 1
      >>> bounds = duals.lower_bounds(f, jnp.array([0.5, 0.25]), jnp.eye(2), threats.Linf(0.25))
      >>> bounds.round(3).tolist()
      [-0.75..., -1.0]
    """
    if bucket is not None:
        checks.at_least("bucket", bucket, 1)
    block = COARSE if set(methods) == {"interval"} else BLOCK
    where = prepare(f, x, threat, boxed=boxed, block=block)
    C = check_request(where, C, methods)
    boxes = hidden_boxes(where, methods=methods, chunk=chunk, bucket=bucket)
    return row_bounds(where, C, boxes, methods=methods, chunk=chunk)


def check_request(where: Region, C: Array, methods: Sequence[str]) -> Array:
    """`C` in the logits' type; ValueError for a wrong shape or an unknown or missing method."""
    check_methods(methods)
    output = where.graph.output
    if jnp.ndim(C) != 2 or jnp.shape(C)[1] != output.shape[0]:
        raise ValueError(f"C must have shape [rows, {output.shape[0]}], got {jnp.shape(C)}")
    return jnp.asarray(C, output.dtype)


def _check_chunk(chunk: int | None) -> None:
    if chunk is not None:
        checks.at_least("chunk", chunk, 1)


def _require_each(where: Region, name: str, given: Sequence[object]) -> None:
    """Raises ValueError unless there is one for each node."""
    nodes = len(where.graph.nodes)
    if len(given) != nodes:
        raise ValueError(f"{name} must have one entry for each of {nodes} nodes, got {len(given)}")


def margin_rows(y: Array, num_classes: int, dtype: jnp.dtype) -> Array:
    """The rows of `lower_bounds` that make margins of logits: row j is e_y - e_j.

    Args:
      y: the label, an integer scalar.
      num_classes: the number of classes K.
      dtype: the dtype of the rows, in general that of the logits.

    Returns:
      The rows, `[K, K]`, of which row `y` is zero.

    Raises:
      ValueError: fewer than 1 class, or a label that is no integer or, where its value is known,
        none of them.
    """
    checks.at_least("num_classes", num_classes, 1)
    checks.label("y", y, num_classes=num_classes)
    eye = jnp.eye(num_classes, dtype=dtype)
    return eye[y][None] - eye


def margin_bounds(
    f: LogitsFn,
    x: Array,
    y: Array,
    threat: ThreatModel,
    *,
    methods: Sequence[str] = ("interval", "wong_kolter"),
    boxed: bool = False,
    chunk: int | None = None,
    bucket: int | None = None,
) -> Array:
    """Lower bounds on the margins f_y(x') - f_j(x') over all x' in the ball around `x`.

    Positive at every other class proves the label for the whole ball; their negatives are the
    robust logits of Wong's thesis (section 3.1.4).

    Args:
      f, x, threat, methods, boxed, chunk, bucket: as in `lower_bounds`, one example.
      y: the label, an integer scalar.

    Returns:
      The bounds, `[K]`, in the dtype and units of the logits; 0 at j = y. NaN means no bound.

    Raises:
      ValueError: as `lower_bounds` and, for the label, `margin_rows`.
    """
    logits = logits_of(f, x)
    rows = margin_rows(y, logits.shape[0], logits.dtype)
    return lower_bounds(
        f, x, rows, threat, methods=methods, boxed=boxed, chunk=chunk, bucket=bucket
    )
