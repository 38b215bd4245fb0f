"""Proposals of the l2 and l1 Square attack: perturbation mass moved between windows."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.attacks.square.windows import Grid, Propose, Sides, Window, place, window_at
from jaxrobust.threats import L1, L2
from jaxrobust.threats.box import numbers
from jaxrobust.types import Array, Key

TILES = 5
"""The starting tiling has about this many bumps along either axis."""


CANCELED = 1e-3
"""Two unit patterns whose sum has a smaller norm than this cancel: the rest is rounding."""


def _unit(
    v: Array, order: int, axes: tuple[int, ...] | None = None, *, least: float = 0.0
) -> Array:
    """`v` over its l`order` norm along `axes`, at least `least`; zero stays zero."""
    power = jnp.sum(jnp.abs(v) ** order, axis=axes, keepdims=True)
    norm = jnp.maximum(jnp.where(power == 0, 1, power) ** (1 / order), least)
    return v / norm


def _two_cones(across: Array, along: Array, sides: Sides, order: int, dtype: np.dtype) -> Array:
    """Two stepped cones of opposite sign, one in either half of the window, not yet masked.

    A cone's height at Chebyshev distance d from its center is the sum of 1/k^2 over d < k <= n,
    with n the number of squares that fill its half. That falls with d, so the cone is the
    smaller of a function of the row and one of the column, and needs no table of patterns.

    Args:
      across: [h] positions along the axis that is cut in half.
      along: [w], along the other.
      sides: of the window, along these two axes.
    """
    steps = jnp.arange(1, across.size + along.size + 1, dtype=dtype)
    sums = jnp.concatenate([jnp.zeros(1, dtype), jnp.cumsum(1 / steps**2)])
    half = sides[0] // 2
    first = across < half
    height = jnp.where(first, half, sides[0] - half)
    distance = jnp.abs(across - jnp.where(first, 0, half) - height // 2)
    count = jnp.maximum(height, sides[1]) // 2 + 1
    reached = jnp.maximum(sums[distance][:, None], sums[jnp.abs(along - sides[1] // 2)][None, :])
    cones = sums[count][:, None] - reached
    inside = ((across >= 0) & (across < sides[0]))[:, None]
    inside = inside & ((along >= 0) & (along < sides[1]))[None, :]
    top = _unit(jnp.where(inside & first[:, None], cones, 0), order)
    bottom = _unit(jnp.where(inside & ~first[:, None], cones, 0), order)
    return _unit(top - bottom, order)


def bump(window: Window, sides: Sides, turned: Array, order: int, dtype: np.dtype) -> Array:
    """The pattern eta of Square attack's l2 form, `[H, W]`, of unit norm and zero outside.

    Andriushchenko et al. 2020, section 3.4: the upper half of the window holds a positive cone, the
    lower half a negative one; `turned` (bool) swaps rows and columns. A window one pixel tall
    and not turned has one cone.
    """
    upright = _two_cones(window.rows, window.columns, sides, order, dtype)
    height, width = sides
    lying = _two_cones(window.columns, window.rows, (width, height), order, dtype).T
    return jnp.where(turned, lying, upright)


def _tiling(key: Key, grid: Grid, order: int, dtype: np.dtype) -> Array:
    """The start: bumps of random turn, and random sign per channel, on centered tiles."""
    (height, width, channels) = grid
    sides = max(height // TILES, 1), max(width // TILES, 1)
    corners = [
        (length % side // 2 + side * np.arange(length // side)).astype(np.int32)
        for length, side in zip(grid[:2], sides, strict=True)
    ]
    tops, lefts = (c.ravel() for c in np.meshgrid(*corners, indexing="ij"))
    draws = jax.random.bernoulli(key, jnp.float32(0.5), shape=(tops.size, 1 + channels))
    sides = jnp.int32(sides[0]), jnp.int32(sides[1])

    def add(total: Array, tile: tuple[Array, Array, Array]) -> tuple[Array, None]:
        top, left, draw = tile
        pattern = bump(window_at(grid, top, left, sides), sides, draw[0], order, dtype)
        signs = jnp.where(draw[1:], 1, -1).astype(dtype)
        return total + pattern[:, :, None] * signs[None, None, :], None

    tiles = jnp.asarray(tops), jnp.asarray(lefts), draws
    return jax.lax.scan(add, jnp.zeros(grid, dtype), tiles)[0]


def masses(key: Key, threat: L2 | L1, x: Array) -> tuple[Array, Propose]:
    """Start and proposals of the Square attack in the l2 norm (order 2) or the l1 norm (order 1).

    A proposal draws two windows W1, W2 of one size. Per channel, W2 is emptied and W1 is filled
    with the unit mixture of its own perturbation and a `bump` of random sign, scaled to the mass
    of W1 and W2 together plus a channel's share of what the ball still allows. The whole is then
    scaled to the radius and clipped to the box. Andriushchenko et al. 2020, Algorithm 3. As in
    the released code the scaling also fills up a perturbation that overlapping windows or the box
    left short; mass is counted per channel, as in the paper (the released code gives each
    channel the mass of all).
    """
    radius, lower, upper = numbers(threat, x, one_radius="square")
    order = 1 if isinstance(threat, L1) else 2
    height, width, channels = x.shape
    grid = height, width, channels

    def fill(delta: Array) -> Array:
        return jnp.clip(x + radius * _unit(delta, order), lower, upper)

    def propose(key: Key, z: Array, sides: Sides) -> Array:
        draws = jax.random.uniform(key, (5 + channels,), jnp.float32)
        target, source = place(grid, draws[:2], sides), place(grid, draws[2:4], sides)
        pattern = bump(target, sides, draws[4] < 0.5, order, x.dtype)
        signs = jnp.where(draws[5:] < 0.5, 1, -1).astype(x.dtype)
        # In units of the radius: its square, or a pixel's, may be too large or too small a float.
        delta = (z - x) / jnp.where(radius > 0, radius, 1)
        mass = jnp.abs(delta) ** order
        spare = jnp.maximum(1 - jnp.sum(mass), 0) / channels
        into, out_of = target.mask[:, :, None], source.mask[:, :, None]
        kept = _unit(jnp.where(into, delta, 0), order, (0, 1))
        mixed = kept + pattern[:, :, None] * signs[None, None, :]
        fresh = _unit(mixed, order, (0, 1), least=CANCELED)
        moved = jnp.sum(jnp.where(into | out_of, mass, 0), axis=(0, 1), keepdims=True)
        filled = fresh * (spare + moved) ** (1 / order)
        return fill(jnp.where(into, filled, jnp.where(out_of, 0, delta)))

    return fill(_tiling(key, grid, order, x.dtype)), propose
