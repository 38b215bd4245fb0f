"""Bounds with optimized slopes: each row ascends its own lower bound in the free slopes alpha."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxrobust import checks
from jaxrobust.duals.bounds import check_request, hidden_boxes, row_bounds
from jaxrobust.duals.relaxations import relaxation
from jaxrobust.duals.relaxed_network import Box, Region, prepare
from jaxrobust.types import Array, LogitsFn, Scalar, ThreatModel


class Optimized(NamedTuple):
    """What the search found, for each row."""

    lower: Array
    """[rows]: the best bound seen; never below `lower_bounds` with the same methods."""
    alphas: tuple[Array, ...]
    """One array [rows, *shape] per node, in order: the slopes of the best iterate."""


def optimized_bounds(
    f: LogitsFn,
    x: Array,
    C: Array,
    threat: ThreatModel,
    *,
    steps: int = 50,
    learning_rate: Scalar = 0.1,
    joint: bool = False,
    methods: Sequence[str] = ("interval", "wong_kolter", "crown"),
    boxed: bool = False,
    chunk: int | None = None,
) -> Optimized:
    """Lower bounds on `C @ f(x')` over the ball, maximized over alpha in [0, 1] for each row.

    Projected gradient ascent by Adam whose step falls to 0 as a cosine, from CROWN's slopes. With
    the boxes of hidden nodes fixed (by `methods`), the maximum is that of the linear program over
    the ReLUs' triangles (Salman et al. 2019; Xu et al. 2021, "Fast and complete", alpha-CROWN);
    every iterate is sound, so an early stop is merely looser. With `joint`, a row's slopes serve
    in its hidden boxes too, which are computed anew in each step for every row: tighter, and
    `rows` times dearer. Boxes keep the best of their methods' own slopes either way.

    One compiled program; not meant to be differentiated.

    Args:
      f, x, threat, methods, boxed, chunk: as in `lower_bounds`, one example.
      C: `[rows, K]` for K logits.
      steps: the number of steps of the ascent, at least 1.
      learning_rate: Adam's first step size, above 0.
      joint: whether a row's slopes serve in its hidden boxes too.

    Returns:
      An `Optimized`: `lower`, `[rows]`, the best bounds seen, in the logits' dtype and in units of
      `C @ f(x')`, never below `lower_bounds` with the same methods; and `alphas`, for each node in
      order an array `[rows, *shape]`, where shape is the node's, the slopes in [0, 1] of each row's
      best iterate.

    Raises:
      ValueError: `steps` or `learning_rate` out of range, or as `lower_bounds`.
    """
    checks.at_least("steps", steps, 1)
    checks.positive("learning_rate", learning_rate)
    where = prepare(f, x, threat, boxed=boxed)
    C = check_request(where, C, methods)
    boxes = hidden_boxes(where, methods=methods, chunk=chunk)
    plain = row_bounds(where, C, boxes, methods=methods, chunk=chunk)

    def bounds(alphas: tuple[Array, ...]) -> Array:
        if not joint:
            return row_bounds(where, C, boxes, methods=("crown",), alphas=alphas, chunk=chunk)
        return jax.vmap(lambda row, own: _joint(where, row, own, boxes, chunk))(C, alphas)

    start = tuple(jnp.broadcast_to(a, (len(C), *a.shape)) for a in _adaptive(where, boxes))
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))

    def step(carry: tuple, _: None) -> tuple[tuple, None]:
        alphas, state, best = carry
        gradients, lower = jax.grad(_summed(bounds), has_aux=True)(alphas)
        best = _better(best, Optimized(lower, alphas))
        with jax.numpy_dtype_promotion("standard"):  # Optax raises a float to an integer power.
            updates, state = optimizer.update(gradients, state)
        moved = jax.tree.map(lambda a, d: jnp.clip(a + d, 0, 1), alphas, updates)
        return (moved, state, best), None

    nothing = Optimized(jnp.full_like(plain, -jnp.inf), start)
    carry = (start, optimizer.init(start), nothing)
    (alphas, _, best), _ = jax.lax.scan(step, carry, length=steps)
    best = _better(best, Optimized(bounds(alphas), alphas))
    return best._replace(lower=jnp.maximum(best.lower, plain))


def _joint(
    where: Region, row: Array, alphas: tuple[Array, ...], boxes: Sequence[Box], chunk: int | None
) -> Array:
    """One row's bound, with its own slopes in the hidden boxes, which also lie in `boxes`."""
    own = hidden_boxes(where, methods=("crown",), alphas=alphas, within=boxes, chunk=chunk)
    rows = tuple(a[None] for a in alphas)
    return row_bounds(where, row[None], own, methods=("crown",), alphas=rows)[0]


def _adaptive(where: Region, boxes: Sequence[Box]) -> list[Array]:
    return [
        relaxation(node.kind).adaptive(box.lower, box.upper, *node.args)
        for node, box in zip(where.graph.nodes, boxes, strict=True)
    ]


def _summed(
    bounds: Callable[[tuple[Array, ...]], Array],
) -> Callable[[tuple[Array, ...]], tuple[Array, Array]]:
    def negative(alphas: tuple[Array, ...]) -> tuple[Array, Array]:
        lower = bounds(alphas)
        return -jnp.sum(lower), lower

    return negative


def _better(best: Optimized, new: Optimized) -> Optimized:
    """Row by row the larger bound; NaN never replaces a number."""
    rises = new.lower > best.lower

    def pick(a: Array, b: Array) -> Array:
        return jnp.where(rises.reshape(-1, *[1] * (a.ndim - 1)), a, b)

    return jax.tree.map(pick, new, best)
