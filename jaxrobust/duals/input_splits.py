"""Branch and bound over the input: boxes of few coordinates, halved where the bound gives way.

For networks with a handful of inputs (ACAS Xu has 5) whose units far outnumber them: all lines are
drawn anew on each part, so that the bounds tighten with the square of its width. Parts are halved
where |a_i| (u_i - l_i) is largest, a being the linear bound's row at the input (Bunel et al. 2018,
section 5.2, "smart branching" on inputs; Wang et al. 2018).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.duals.backward_bounds import pulled_row
from jaxrobust.duals.bounds import hidden_boxes, row_bounds
from jaxrobust.duals.counterexamples import Problem, Worst, judged
from jaxrobust.duals.frontier import Frontier
from jaxrobust.duals.relaxed_network import prepare, relaxed_by
from jaxrobust.duals.rounding import grown
from jaxrobust.duals.specification import Property
from jaxrobust.threats import Linf
from jaxrobust.types import Array, LogitsFn


class Bounded(NamedTuple):
    """Boxes of inputs, with one leading axis."""

    lower: Array
    """[B]: the property is worth no less in the box."""
    steep: Array
    """[B, ...]: the size of the linear bound's row at the input."""
    worst: Array
    """[B]: what the property is worth at `witness`."""
    witness: Array
    """[B, ...]: the worse of the box's center and the corner where the bound is least."""


@functools.partial(jax.jit, static_argnames=("methods", "chunk"))
def bounded(
    f: LogitsFn,
    lower: Array,
    upper: Array,
    goal: Property,
    *,
    methods: Sequence[str],
    chunk: int | None,
) -> Bounded:
    """Bounds of a property on a batch of boxes `[B, ...]`."""

    def one(lower: Array, upper: Array) -> Bounded:
        center = jnp.clip(0.5 * lower + 0.5 * upper, lower, upper)
        radius = grown(jnp.maximum(upper - center, center - lower), 1)
        where = prepare(f, center, Linf(radius, lower, upper), boxed=True)
        boxes = hidden_boxes(where, methods=methods, chunk=chunk)
        A, b = (jnp.asarray(v, where.graph.output.dtype) for v in (goal.A, goal.b))
        found = row_bounds(where, A, boxes, methods=methods, chunk=chunk)
        last = 2 * jnp.finfo(found.dtype).eps * (jnp.abs(found) + jnp.abs(b))
        found = jnp.nan_to_num(found + b - jnp.where(b == 0, 0, last), nan=-jnp.inf)
        least, row = goal.least(found)
        (lines,) = relaxed_by(where, boxes, ("crown",))
        direction = pulled_row(where, lines, where.graph.output, A[row])[0]
        corner = jnp.where(direction > 0, lower, upper)
        points = jnp.stack([center, corner])
        values = jax.vmap(lambda z: goal.value(f(z)))(points)
        worst = jnp.argmin(jnp.where(jnp.isnan(values), jnp.inf, values))
        return Bounded(least, jnp.abs(direction), values[worst], points[worst])

    with jax.default_matmul_precision("highest"):
        return jax.vmap(one)(lower, upper)


def ends(x: Array, threat: Linf) -> tuple[np.ndarray, np.ndarray]:
    """The corners of the set, a box, rounded outward."""
    center = np.asarray(x)
    radius, low, high = (
        np.asarray(v, center.dtype) for v in (threat.radius, threat.lower, threat.upper)
    )
    inf = np.asarray(np.inf, center.dtype)
    down = np.where(radius > 0, np.nextafter(center - radius, -inf), center)
    up = np.where(radius > 0, np.nextafter(center + radius, inf), center)
    return np.minimum(np.maximum(down, low), center), np.maximum(np.minimum(up, high), center)


class Item(NamedTuple):
    """A box on the host."""

    bound: float
    age: int
    low: np.ndarray
    high: np.ndarray
    steep: np.ndarray


def halved(low: np.ndarray, high: np.ndarray, steep: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Boxes `[B, n]` in two: (lower ends, upper ends) `[2 B, n]`, the halves side by side."""
    middle = _middle(low, high)
    gain = np.where((low < middle) & (middle < high), (high - low) * steep, -1)
    # where no row comes by, the widest
    gain = np.where(np.max(gain, axis=1, keepdims=True) > 0, gain, high - low)
    at = np.arange(low.shape[1]) == np.argmax(gain, axis=1)[:, None]
    lows = np.stack([low, np.where(at, middle, low)], axis=1)
    highs = np.stack([np.where(at, middle, high), high], axis=1)
    return lows.reshape(-1, low.shape[1]), highs.reshape(-1, low.shape[1])


def _middle(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    half = low.dtype.type(0.5)
    return half * low + half * high


@dataclasses.dataclass
class InputSearch:
    """A search in progress over boxes of the input."""

    problem: Problem
    worst: Worst
    batch_size: int
    frontier: Frontier = dataclasses.field(default_factory=Frontier)

    def begin(self, methods: Sequence[str], chunk: int | None) -> None:
        """Bounds the whole set."""
        self.options = {"methods": tuple(methods), "chunk": chunk}
        low, high = ends(self.problem.x, cast(Linf, self.problem.threat))
        self._bound(np.array([-np.inf]), low.reshape(1, -1), high.reshape(1, -1))

    def advance(self) -> None:
        """Halves the boxes with the lowest bounds, and their halves until a batch is full."""
        items = self.frontier.pop(max(self.batch_size // 2, 1))
        bounds, _, low, high, steep = map(np.stack, zip(*items, strict=True))
        while 2 * len(low) <= max(self.batch_size, 2):
            low, high = halved(low, high, steep)
            bounds, steep = np.repeat(bounds, 2), np.repeat(steep, 2, axis=0)
        self._bound(bounds, low, high)

    def _bound(self, parents: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
        """Files boxes by their bounds, or their parents', which hold too."""
        # a short batch is filled up with its last: one compiled program
        fill = max(self.batch_size, 2) - len(low)
        shape = (-1, *self.problem.x.shape)
        lower, upper = (np.pad(v, ((0, fill), (0, 0)), mode="edge") for v in (low, high))
        f, _, _, goal = self.problem
        found = bounded(f, lower.reshape(shape), upper.reshape(shape), goal, **self.options)
        found = jax.tree.map(np.asarray, found)
        at = int(np.argmin(np.nan_to_num(found.worst, nan=np.inf)))
        self.worst.see(judged(*self.problem, jnp.asarray(found.witness[at])))
        bounds = np.maximum(found.lower[: len(low)], parents)
        middle = _middle(low, high)
        final = ~np.any((low < middle) & (middle < high), axis=1)
        steep = found.steep.reshape(len(lower), -1)
        for i, bound in enumerate(bounds.tolist()):
            item = Item(bound, next(self.frontier.ages), low[i], high[i], steep[i])
            self.frontier.push(item, final=bool(final[i]))
        self.frontier.visited += len(low)
