"""Searches over rotations and translations."""

from __future__ import annotations

from typing import Any, cast

import jax
import jax.numpy as jnp

from jaxrobust import checks, losses
from jaxrobust.attacks.ascend import Point, better, judge, objective
from jaxrobust.threats.spatial import Spatial
from jaxrobust.types import Array, Attack, AttackResult, Key, LogitsFn, Loss, static

"""(key, threat, clean example, **counts) -> moves `[N, 3]` to try."""


class SpatialGrid(Attack):
    """What `spatial_grid` makes; see there."""

    threat: Spatial
    angles: int = static()
    shifts: int = static()
    loss: Loss = static()

    def __call__(self, key: Key, f: LogitsFn, x: Array, y: Array) -> AttackResult:
        del key
        turns, steps = (
            jnp.linspace(-1, 1, count, dtype=x.dtype) if count > 1 else jnp.zeros(1, x.dtype)
            for count in (self.angles, self.shifts)
        )
        axes = jnp.meshgrid(turns, steps, steps, indexing="ij")
        moves = jnp.stack([axis.ravel() for axis in axes], axis=-1) * self.threat.limits(x)[None, :]
        return _worst(f, self.threat, x, y, moves, self.loss)


class SpatialRandom(Attack):
    """What `spatial_random` makes; see there."""

    threat: Spatial
    draws: int = static()
    loss: Loss = static()

    def __call__(self, key: Key, f: LogitsFn, x: Array, y: Array) -> AttackResult:
        moves = jax.vmap(lambda k: self.threat.sample(k, x))(jax.random.split(key, self.draws))
        return _worst(f, self.threat, x, y, moves, self.loss)


def _worst(
    f: LogitsFn, threat: Spatial, x: Array, y: Array, moves: Array, loss: Loss
) -> AttackResult:
    """The worst of the moves `[M, 3]` and of standing still."""
    evaluate = objective(f, loss, y)

    def at(move: Array) -> Point:
        return Point(move, *evaluate(threat.transform(x, move)))

    def visit(best: Point, move: Array) -> tuple[Point, None]:
        return better(best, at(move)), None

    best, _ = jax.lax.scan(visit, at(jnp.zeros(3, x.dtype)), moves)
    z = threat.transform(x, best.z)
    moved = cast(Any, threat.at(best.z))
    return judge(f, moved, x, y, z, loss, forwards=moves.shape[0] + 1, backwards=0)


def spatial_grid(
    threat: Spatial, *, angles: int = 31, shifts: int = 5, loss: Loss = losses.margin
) -> Attack:
    """The worst rotation and translation of a grid, by the loss.

    `angles` evenly spaced rotations times `shifts`^2 translations, limits included, and the image
    itself. Engstrom et al. 2019, whose grid of 31 x 5 x 5 = 775 is the default; the
    paper keeps a misclassified point or the largest loss, as here. Needs no gradients and does not
    use its key. The result's `norm` is the move's size, in units of the radius. Not
    differentiable.

    Args:
      threat: `Spatial`.
      loss: what has to be large, from logits and label.

    Raises:
      TypeError: another threat.
      ValueError: a count < 1.
    """
    checks.at_least("angles", angles, 1)
    checks.at_least("shifts", shifts, 1)
    _check(threat)
    return SpatialGrid(threat=threat, angles=angles, shifts=shifts, loss=loss)


def spatial_random(threat: Spatial, *, draws: int = 10, loss: Loss = losses.margin) -> Attack:
    """The worst of `draws` uniformly random rotations and translations, by the loss.

    Engstrom et al. 2019 ("worst-of-k", k = 10 in their tables); the image itself is
    tried as well. Otherwise as `spatial_grid`.
    """
    checks.at_least("draws", draws, 1)
    _check(threat)
    return SpatialRandom(threat=threat, draws=draws, loss=loss)


def _check(threat: Spatial) -> None:
    if not isinstance(threat, Spatial):
        raise TypeError(f"a spatial attack needs a Spatial threat, got {type(threat).__name__}")
