"""The l-infinity ball: every coordinate may move by at most the radius."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.pytree import pytree
from jaxrobust.threats.box import (
    in_box,
    magnitude,
    numbers,
    require_one_shape,
    rounding,
    share_of,
    stack_leaves,
    validate,
    within,
)
from jaxrobust.types import Array, Key, Scalar


@pytree
@dataclasses.dataclass(frozen=True)
class Linf:
    """The set {z : max_i |z_i - x_i| <= radius, lower <= z <= upper}.

    The threat model of Madry et al. (2018), "Towards deep learning models resistant to
    adversarial attacks", section 2. The clean example `x` is assumed to lie in the box. Each field
    is a number or an array of `x`'s shape, one for each coordinate: a radius of 0 holds a
    coordinate. All fields are leaves: an array of another shape makes a stack of sets, to be mapped
    over with `vmap` (scalar fields are stacked along). ValueError for a negative, NaN or infinite
    radius and for `lower > upper`.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxrobust import threats
      >>> ball = threats.Linf(0.25)
      >>> ball.project(jnp.array([0.5, 0.0]), jnp.array([1.0, -1.0])).tolist()
      [0.75, 0.0]
    """

    radius: Scalar
    lower: Scalar = 0.0
    upper: Scalar = 1.0

    def __post_init__(self) -> None:
        stack_leaves(self)
        validate(self)

    def sample(self, key: Key, x: Array) -> Array:
        """A uniform point of the cube around `x` (any shape), then clipped to the box.

        Clipping piles probability onto the faces of the box, as in Madry et al. (2018).
        Differentiable in `x` and the radius.
        """
        radius, lower, upper = numbers(self, x)
        noise = jax.random.uniform(key, jnp.shape(x), radius.dtype, minval=-1, maxval=1)
        return jnp.clip(x + radius * noise, lower, upper)

    def project(self, x: Array, z: Array) -> Array:
        """The Euclidean projection of `z` onto ball and box: one clip per coordinate.

        Returns `x`'s shape and dtype. NaN in `z` stays NaN. Differentiable almost everywhere.
        """
        require_one_shape(x, z)
        radius, lower, upper = numbers(self, x)
        return jnp.clip(z, jnp.maximum(x - radius, lower), jnp.minimum(x + radius, upper))

    def steepest(self, gradient: Array, z: Array) -> Array:
        """sign(gradient): the ascent step of l-infinity norm 1.

        Goodfellow et al. (2015), "Explaining and harnessing adversarial examples", section 4.
        Zero and NaN entries do not move, nor do coordinates of radius 0. Its derivative is zero.
        """
        require_one_shape(gradient, z, names=("gradient", "z"))
        step = jnp.sign(jnp.nan_to_num(gradient))
        return jnp.where(numbers(self, z)[0] > 0, step, 0) if np.shape(self.radius) else step

    def dual_norm(self, gradient: Array) -> Array:
        """The l1 norm of `gradient`, a scalar. Differentiable, with derivative 0 at 0."""
        return jnp.sum(magnitude(gradient))

    def size(self, x: Array, z: Array) -> Array:
        """max_i |z_i - x_i|, a scalar. Differentiable, with derivative 0 where `z` equals `x`.

        With a radius for each coordinate in units of them: 1 at the edge.
        """
        require_one_shape(x, z)
        if np.shape(self.radius):
            return jnp.max(magnitude(share_of(z - x, numbers(self, x)[0])))
        return jnp.max(magnitude(z - x))

    def contains(self, x: Array, z: Array) -> Array:
        """bool scalar: `z` is in ball and box up to `box.rounding` (about 1e-6 in float32).

        False for NaN. Not differentiable.
        """
        require_one_shape(x, z)
        radius, lower, upper = numbers(self, x)
        if np.shape(self.radius):
            near = jnp.all(within(jnp.abs(z - x), radius, rounding(x, z)))
        else:
            near = within(self.size(x, z), radius, jnp.max(rounding(x, z)))
        return near & in_box(z, lower, upper)
