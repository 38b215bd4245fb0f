"""Square attack: random search over windows of an image, without gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import checks, losses
from jaxrobust.attacks.ascend import Point, better, judge, objective
from jaxrobust.attacks.first_order import shared, stacked
from jaxrobust.attacks.square.masses import masses
from jaxrobust.attacks.square.windows import Grid, Propose, Sides, place
from jaxrobust.threats import L1, L2, Linf
from jaxrobust.types import (
    Array,
    Attack,
    AttackResult,
    Key,
    LogitsFn,
    Loss,
    Scalar,
    static,
)

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""The queries, of 10,000, after which the window's area halves."""


class _Method(NamedTuple):
    """What differs between the norms."""

    prepare: Callable[[Key, Any, Array], tuple[Array, Propose]]
    """(key, threat, image) -> (start, how to propose the next point)."""
    least: int
    odd: bool
    """The smallest side of a window, and whether sides are odd."""


def _corners(key: Key, threat: Linf, x: Array) -> tuple[Array, Propose]:
    """Vertical stripes, then windows: every coordinate is at one of the two ends of its range.

    2 radius from the current point, clipped to ball and box, is the far end itself, so a proposal
    is one selection and its only random numbers are a position and a sign per channel.
    """
    radius = jnp.asarray(threat.radius, x.dtype)
    low, high = threat.project(x, x - radius), threat.project(x, x + radius)
    height, width, channels = x.shape

    def propose(key: Key, z: Array, sides: Sides) -> Array:
        draws = jax.random.uniform(key, (2 + channels,), jnp.float32)
        window = place((height, width, channels), draws[:2], sides)
        signs = (draws[2:] < 0.5)[None, None, :]
        return jnp.where(window.mask[:, :, None], jnp.where(signs, high, low), z)

    stripes = jax.random.bernoulli(key, jnp.float32(0.5), shape=(1, width, channels))
    return jnp.where(stripes, high, low), propose


_METHODS = {
    Linf: _Method(_corners, least=1, odd=False),
    L2: _Method(masses, least=3, odd=True),
    L1: _Method(masses, least=3, odd=True),
}


def _grid(shape: tuple[int, ...]) -> Grid:
    """The shape as [height, width, channels]; a vector is one row, so that it has many columns."""
    if len(shape) > 3:
        raise ValueError(
            f"square needs a vector, [H, W] or [H, W, C], got the shape {shape}; "
            "reshape inside the model"
        )
    # ones in front of a vector's columns, and behind an image without channels
    height, width, channels = (1, *(shape or (1,)), 1) if len(shape) < 2 else (*shape, 1)[:3]
    return height, width, channels


def _sides(grid: Grid, p: Array, method: _Method) -> Sides:
    """Height and width of the window after 0, 1, ... halvings of its area, `[10]` each.

    Squares of side round(sqrt(p h w)); where that is longer than the image's shorter side, the
    window spans that side and is as long as its area asks for.
    """
    height, width = grid[:2]
    area = p * height * width * 0.5 ** jnp.arange(len(HALVINGS) + 1, dtype=p.dtype)
    side = jnp.maximum(jnp.round(jnp.sqrt(area)), method.least).astype(jnp.int32)
    side = side + (1 - side % 2 if method.odd else 0)
    short = min(height, width)
    stretched = jnp.maximum(jnp.round(area / short).astype(jnp.int32), short)
    longer = jnp.where(side > short, stretched, side)
    small, large = jnp.minimum(side, short), jnp.minimum(longer, max(height, width))
    return (small, large) if height <= width else (large, small)


class Square(Attack):
    """What `square` makes; see there."""

    threat: Linf | L2 | L1
    p: Scalar
    queries: int = static()
    schedule: int = static()
    loss: Loss = static()

    def __call__(self, key: Key, f: LogitsFn, x: Array, y: Array) -> AttackResult:
        grid, method = _grid(x.shape), _METHODS[type(self.threat)]
        start_key, walk_key = jax.random.split(key)
        evaluate = objective(f, self.loss, y)

        def at(image: Array) -> Point:
            return Point(image, *evaluate(image.reshape(x.shape)))

        image = x.reshape(grid)
        start, propose = method.prepare(start_key, self.threat, image)
        heights, widths = _sides(grid, shared(self.p, jnp.float32), method)
        # The query after which the area halves for the nth time.
        passed = np.array([-(-(last + 1) * self.schedule // 10_000) for last in HALVINGS], np.int32)

        def proceed(carry: tuple[Array, Point]) -> Array:
            count, best = carry
            return (count < self.queries) & ~best.fooled

        def advance(carry: tuple[Array, Point]) -> tuple[Array, Point]:
            count, best = carry
            halved = jnp.sum(count >= passed, dtype=jnp.int32)
            now = jax.random.fold_in(walk_key, count)
            z = propose(now, best.z, (heights[halved], widths[halved]))
            return count + 1, better(best, at(z))

        clean, first = at(image), at(start)
        best = jax.tree.map(lambda a, b: jnp.where(clean.fooled, a, b), clean, first)
        count, best = jax.lax.while_loop(proceed, advance, (jnp.int32(0), best))
        z = better(best, clean).z.reshape(x.shape)
        return judge(f, self.threat, x, y, z, self.loss, forwards=count + 2, backwards=0)


def square(
    threat: Linf | L2 | L1,
    *,
    queries: int = 5000,
    schedule: int | None = None,
    p: Scalar = 0.8,
    loss: Loss = losses.margin,
) -> Square:
    """Square attack: each query redraws one random window and keeps it if the loss rises.

    Needs scores but no gradients, so it sees through masked ones. Stops at the first misclassified
    point (tie and NaN included); otherwise returns the best point queried. The window's area is
    the share `p` of the image, halved after 10, 50, 200, 500, 1000, 2000, 4000, 6000 and 8000 of
    10,000 queries, or the same fractions of `schedule`. Andriushchenko et al. 2020, "Square
    attack: a query-efficient black-box adversarial attack via random search".

    - linf (Algorithm 2): start at vertical stripes of +-radius, one sign per channel and column;
      a window takes one sign per channel.
    - l2 (Algorithm 3) and l1 (the same with l1 norms): start at a tiling of bumps; a proposal
      moves the perturbation of one window into a bump in another. See `square_mass.masses`.

    Deviations from the code released with AutoAttack: each example draws its own windows, at
    every position (there one for the whole batch, never reaching the last row or column); the
    clean point is queried first, so an example misclassified before the attack stays so; images
    need not be square (a window too tall or wide for its image is stretched along the other
    axis). Works for any number of classes >= 2. Not differentiable.

    Args:
      threat: `Linf`, `L2` or `L1`. Inputs are [H, W, C] images, [H, W], or vectors (one row).
      queries: windows tried at most; the clean point, the start and the verdict cost a forward
        pass each besides. A mapped batch runs as long as its slowest example.
      schedule: queries for which the windows' shrinking is meant (default `queries`). AutoAttack
        stops after 5,000 of 10,000.
      p: share of the image that the first windows cover, in (0, 1].
      loss: what has to rise, from logits and label.

    Raises:
      TypeError: another threat.
      ValueError: queries or schedule < 1, p outside (0, 1]; when called, an input of more than 3
        dimensions.
    """
    if type(threat) not in _METHODS:
        raise TypeError(f"square needs a Linf, L2 or L1 threat, got {type(threat).__name__}")
    schedule = queries if schedule is None else schedule
    for name, count in (("queries", queries), ("schedule", schedule)):
        checks.at_least(name, count, 1)
    checks.positive("p", p)
    if checks.is_concrete(p) and np.max(p) > 1:
        raise ValueError(f"p is a share of the image and at most 1, got {p}")
    scalars = stacked({"p": p}, threat)
    return Square(threat=threat, **scalars, queries=queries, schedule=schedule, loss=loss)
