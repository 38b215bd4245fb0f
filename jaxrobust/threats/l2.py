"""The Euclidean ball."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.pytree import pytree
from jaxrobust.threats.box import (
    from_radii,
    in_box,
    in_radii,
    magnitude,
    near_in_radii,
    numbers,
    projected_in_radii,
    require_one_shape,
    rounding,
    share_of,
    stack_leaves,
    steepest_in_radii,
    validate,
    within,
)
from jaxrobust.types import Array, Key, Scalar


@pytree
@dataclasses.dataclass(frozen=True)
class L2:
    """The set {z : ||z - x||_2 <= radius, lower <= z <= upper}.

    The threat model of Madry et al. (2018), "Towards deep learning models resistant to
    adversarial attacks", section 2. The clean example `x` is assumed to lie in the box. Box and
    radius are numbers or arrays of `x`'s shape; with a radius for each coordinate the set is
    {z : ||(z - x) / radius|| <= 1}, and one of 0 holds its coordinate. All fields are leaves: an
    array of another shape makes a stack of sets, to be mapped over with `vmap` (scalar fields are
    stacked along). ValueError for a negative, NaN or infinite radius and for `lower > upper`.
    """

    radius: Scalar
    lower: Scalar = 0.0
    upper: Scalar = 1.0

    def __post_init__(self) -> None:
        stack_leaves(self)
        validate(self)

    def sample(self, key: Key, x: Array) -> Array:
        """A uniform point of the ball around `x` (any shape), then clipped to the box.

        Normal direction times radius * U^(1/n). Clipping piles probability onto the faces of the
        box and never leaves the ball, since the box holds `x`. Differentiable in `x` and radius.
        """
        if np.shape(self.radius):
            return from_radii(self, x, in_radii(self, x).sample(key, jnp.zeros_like(x)))
        radius, lower, upper = numbers(self, x)
        normal_key, length_key = jax.random.split(key)
        direction = _unit(jax.random.normal(normal_key, jnp.shape(x), radius.dtype))
        length = jax.random.uniform(length_key, (), radius.dtype) ** (1 / jnp.size(x))
        return jnp.clip(x + radius * length * direction, lower, upper)

    def project(self, x: Array, z: Array) -> Array:
        """Projects `z` onto the ball, then onto the box; the result lies in both.

        Returns `x`'s shape and dtype. Clipping moves every coordinate toward `x`, which the box
        holds, so it cannot leave the ball. This is the update of PGD (Madry et al., 2018) and
        AutoAttack (Croce and Hein, 2020). Known deviation: where both constraints bind, the
        result is feasible but not the closest point of the intersection. With a radius for each
        coordinate distances count in units of them. NaN and infinite entries of `z` give NaN.
        Differentiable almost everywhere.
        """
        require_one_shape(x, z)
        if np.shape(self.radius):
            return projected_in_radii(self, x, z)
        radius, lower, upper = numbers(self, x)
        step = z - x
        length = _norm(step)
        inside = length <= radius
        # Written so that a NaN length takes the scaled branch and is not mistaken for inside.
        scale = radius / jnp.where(inside, 1, length)
        return jnp.clip(jnp.where(inside, z, x + scale * step), lower, upper)

    def steepest(self, gradient: Array, z: Array) -> Array:
        """gradient / ||gradient||_2, the ascent step of Euclidean norm 1.

        Zero for a zero gradient; NaN entries do not move and infinite ones count as the largest
        float. Neither huge nor tiny gradients overflow or vanish. Differentiable, with
        derivative 0 at 0.
        """
        require_one_shape(gradient, z, names=("gradient", "z"))
        if np.shape(self.radius):
            return steepest_in_radii(self, gradient, z)
        return _unit(jnp.nan_to_num(gradient))

    def dual_norm(self, gradient: Array) -> Array:
        """The l2 norm of `gradient`, a scalar. Differentiable, with derivative 0 at 0."""
        return _norm(gradient)

    def size(self, x: Array, z: Array) -> Array:
        """||z - x||_2, a scalar. Differentiable, with derivative 0 where `z` equals `x`.

        With a radius for each coordinate in units of them: 1 at the edge.
        """
        require_one_shape(x, z)
        if np.shape(self.radius):
            return _norm(share_of(z - x, numbers(self, x)[0]))
        return _norm(z - x)

    def contains(self, x: Array, z: Array) -> Array:
        """bool scalar: `z` is in ball and box up to the l2 norm of `box.rounding`.

        In float32 that is at most about 1e-6 * sqrt(n) for pixels. False for NaN. Not
        differentiable.
        """
        require_one_shape(x, z)
        radius, lower, upper = numbers(self, x)
        if np.shape(self.radius):
            return near_in_radii(self, x, z) & in_box(z, lower, upper)
        near = within(self.size(x, z), radius, _norm(rounding(x, z)))
        return near & in_box(z, lower, upper)


def _rescaled(v: Array) -> tuple[Array, Array]:
    """`v` over about its largest magnitude, and that divisor (1 for zero): its squares are safe."""
    largest = jax.lax.stop_gradient(jnp.max(magnitude(v)))
    # Compilers divide by multiplying with the reciprocal, which is flushed to 0 near the maximum.
    largest = jnp.minimum(largest, jnp.finfo(v.dtype).max / 8)
    largest = jnp.where(largest == 0, 1, largest)
    return v / largest, largest


def _root(square: Array) -> Array:
    """The square root, with derivative 0 at 0 where the true one is infinite."""
    return jnp.where(square == 0, 0, jnp.sqrt(jnp.where(square == 0, 1, square)))


def _norm(v: Array) -> Array:
    scaled, largest = _rescaled(v)
    return largest * _root(jnp.sum(scaled**2))


def _unit(v: Array) -> Array:
    scaled, _ = _rescaled(v)
    length = _root(jnp.sum(scaled**2))
    return jnp.where(length == 0, 0, scaled / jnp.where(length == 0, 1, length))
