"""Rotations and translations of an image: a threat of three numbers, not of pixels."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates

from jaxrobust import checks
from jaxrobust.pytree import pytree
from jaxrobust.threats.box import ROUNDING_STEPS, stack_leaves, within
from jaxrobust.types import Array, Key, Scalar


@pytree
@dataclasses.dataclass(frozen=True)
class Spatial:
    """The images {T(x; a, u, v)} with |a| <= radius degrees, |u| and |v| <= radius pixels.

    T rotates by `a` degrees about the image's center, counterclockwise, then shifts by `u` rows
    down and `v` columns right, with bilinear interpolation; what comes from outside the image is
    `fill`. Engstrom et al. 2019, "Exploring the landscape of spatial robustness", with their
    limits of 30 degrees and 3 pixels (a tenth of the image) on MNIST and CIFAR at radius 1.

    A move is the array (a, u, v), and distances are those of moves: the set of images is no ball,
    so this is no `ThreatModel` (nothing projects a pixel image onto it). `at(move)` gives the
    evidence an attack needs.
    All fields are leaves; an array of radii makes a stack, to be mapped over with `vmap`.
    ValueError for a radius, `degrees` or `pixels` that is negative or not finite.
    """

    degrees: Scalar = 30.0
    pixels: Scalar = 3.0
    radius: Scalar = 1.0
    fill: Scalar = 0.0

    def __post_init__(self) -> None:
        stack_leaves(self)
        for name in ("degrees", "pixels", "radius"):
            checks.nonnegative(name, getattr(self, name))

    def limits(self, x: Array) -> Array:
        """The largest move, `[3]`: degrees, rows, columns, times the radius. `x`'s dtype."""
        largest = (jnp.asarray(v, x.dtype) for v in (self.degrees, self.pixels, self.pixels))
        return jnp.asarray(self.radius, x.dtype) * jnp.stack(tuple(largest))

    def sample(self, key: Key, x: Array) -> Array:
        """A move drawn uniformly, `[3]`. Differentiable in the limits."""
        return self.limits(x) * jax.random.uniform(key, (3,), x.dtype, minval=-1, maxval=1)

    def transform(self, x: Array, move: Array) -> Array:
        """T(x; move) in `x`'s shape, [H, W] or [H, W, C]; the zero move is exactly `x`.

        Differentiable in `x`, and almost everywhere in the move. ValueError for another number
        of dimensions.
        """
        if x.ndim not in (2, 3):
            raise ValueError(f"a spatial threat needs [H, W] or [H, W, C], got shape {x.shape}")
        height, width = x.shape[:2]
        angle = move[0] * jnp.asarray(jnp.pi / 180, x.dtype)
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        middle_row, middle_column = (height - 1) / 2, (width - 1) / 2
        # Each target pixel looks up where it came from: the move undone, last part first.
        row = (jnp.arange(height, dtype=x.dtype) - middle_row - move[1])[:, None]
        column = (jnp.arange(width, dtype=x.dtype) - middle_column - move[2])[None, :]
        source = (
            row * cos + column * sin + middle_row,
            column * cos - row * sin + middle_column,
        )

        def look_up(channel: Array) -> Array:
            fill = jnp.asarray(self.fill, x.dtype)
            return map_coordinates(channel - fill, source, order=1, mode="constant") + fill

        return look_up(x) if x.ndim == 2 else jax.vmap(look_up, in_axes=-1, out_axes=-1)(x)

    def size(self, move: Array) -> Array:
        """The radius at which a move enters the set: its largest share of `degrees` or `pixels`.

        Infinite for a nonzero move along a direction whose limit is 0.
        """
        largest = dataclasses.replace(self, radius=jnp.ones_like(move[0])).limits(move)
        allowed = largest > 0
        share = jnp.abs(move) / jnp.where(allowed, largest, 1)
        return jnp.max(jnp.where(allowed, share, jnp.where(move == 0, 0, jnp.inf)))

    def at(self, move: Array) -> Placed:
        """The set as seen from one move: what it holds is judged by that move."""
        return Placed(self, move)


@pytree
@dataclasses.dataclass(frozen=True)
class Placed:
    """A spatial threat with the move that is claimed to lead to a point: evidence to check."""

    threat: Spatial
    move: Array

    def contains(self, x: Array, z: Array) -> Array:
        """bool scalar: the move is allowed and takes `x` to `z`, up to float rounding."""
        radius = jnp.asarray(self.threat.radius, x.dtype)
        allowed = within(self.threat.size(self.move), radius, jnp.zeros_like(radius))
        step = ROUNDING_STEPS * jnp.finfo(x.dtype).eps
        image = self.threat.transform(x, self.move)
        return allowed & jnp.all(jnp.abs(z - image) <= step * (1 + jnp.abs(image)))

    def size(self, x: Array, z: Array) -> Array:
        """The size of the move, in units of the radius."""
        del x, z
        return self.threat.size(self.move)
