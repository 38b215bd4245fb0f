"""The l1 ball: the total movement over all coordinates is bounded."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxrobust import checks
from jaxrobust.float_bisection import largest_where
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
class L1:
    """The set {z : sum_i |z_i - x_i| <= radius, lower <= z <= upper}.

    The clean example `x` is assumed to lie in the box. Box and radius are numbers or arrays of
    `x`'s shape; with a radius for each coordinate the set is {z : ||(z - x) / radius||_1 <= 1}, and
    one of 0 holds its coordinate. `coordinates` is how many coordinates
    share one steepest step: 1 (the default) is the exact steepest ascent of the l1 norm; larger
    values give up some slope to move more pixels per step; MSD (Maini et al., 2020, "Adversarial
    robustness against the union of multiple perturbation models"; Wong's thesis, section 5.3.4)
    draws it anew at each step.
    All fields are leaves: an array of another shape makes a stack of sets, to be mapped over with
    `vmap` (scalar fields are stacked along). ValueError for a negative, NaN or infinite radius, for
    `lower > upper`, and for `coordinates` that is not a whole number of at least 1.
    """

    radius: Scalar
    lower: Scalar = 0.0
    upper: Scalar = 1.0
    coordinates: Array | int = 1

    def __post_init__(self) -> None:
        stack_leaves(self)
        validate(self)
        if not isinstance(self.coordinates, Tracer):
            known = checks.is_concrete(self.coordinates)
            count = np.asarray(self.coordinates if known else 0)
            if not ((count >= 1) & (count == np.floor(count))).all():
                raise ValueError(
                    f"coordinates must be a whole number of at least 1, got {self.coordinates}; "
                    "1 is exact steepest ascent"
                )

    def sample(self, key: Key, x: Array) -> Array:
        """A uniform point of the ball around `x` (any shape), then clipped to the box.

        n Laplace variables over the sum of their magnitudes and one exponential variable
        (Barthe et al., 2005, "A probabilistic approach to the geometry of the l_p^n-ball",
        theorem 1). Clipping piles probability onto the faces of the box and never leaves the
        ball. Differentiable in `x` and the radius.
        """
        if np.shape(self.radius):
            return from_radii(self, x, in_radii(self, x).sample(key, jnp.zeros_like(x)))
        radius, lower, upper = numbers(self, x)
        laplace_key, slack_key = jax.random.split(key)
        noise = jax.random.laplace(laplace_key, jnp.shape(x), radius.dtype)
        slack = jax.random.exponential(slack_key, (), radius.dtype)
        direction = noise / (jnp.sum(jnp.abs(noise)) + slack)
        return jnp.clip(x + radius * direction, lower, upper)

    def project(self, x: Array, z: Array) -> Array:
        """The Euclidean projection of finite `z` onto ball and box.

        x + clip(soft(z - x, t), lower - x, upper - x) with the threshold t >= 0 at which the
        radius is just spent (Croce and Hein, 2021, "Mind the box: l1-APGD for sparse adversarial
        attacks on image classifiers", section 2; there by sorting, here by bisection to the last
        bit). With a radius for each coordinate distances count in units of them. Returns `x`'s
        shape and dtype; infinite bounds are allowed. NaN in `z` gives NaN. Differentiable almost
        everywhere.
        """
        require_one_shape(x, z)
        if np.shape(self.radius):
            return projected_in_radii(self, x, z)
        radius, lower, upper = numbers(self, x)
        step = z - x
        wish = jnp.abs(step)
        room = jnp.maximum(jnp.where(step > 0, upper - x, x - lower), 0)
        most = jnp.minimum(wish, room)
        wishes, mosts, budget = jax.lax.stop_gradient((wish, most, radius))
        overspending = largest_where(
            lambda t: jnp.sum(jnp.clip(wishes - t, 0, mosts)) > budget, jnp.max(wishes)
        )

        # The last float that spends too much and the next one bracket the threshold. The free
        # coordinates share what the upper end leaves unspent: far from `x` the floats are coarse
        # but differences of neighbors are exact, and this line, unlike the search, has the
        # threshold's derivative.
        rest = wish - jnp.nextafter(overspending, jnp.full_like(overspending, jnp.inf))
        free = jnp.maximum(jnp.sum((rest >= 0) & (rest < most)), 1).astype(rest.dtype)
        unspent = radius - jnp.sum(jnp.clip(rest, 0, most))
        moves = jnp.clip(rest + unspent / free, 0, most)

        inside = jnp.sum(most) <= radius
        return jnp.clip(jnp.where(inside, z, x + jnp.sign(step) * moves), lower, upper)

    def steepest(self, gradient: Array, z: Array) -> Array:
        """The ascent step of l1 norm 1, shared by the `coordinates` largest movable entries.

        sign(gradient) / k on the k coordinates of largest |gradient|, leaving out those that
        the box stops at `z` and those of zero or NaN gradient; all of them where fewer than k
        remain, zero where none does. Of tied coordinates the first in memory order move. Maini
        et al. (2020); Wong's thesis, equation 5.38 and section 5.3.4. Its derivative is zero.
        """
        require_one_shape(gradient, z, names=("gradient", "z"))
        if np.shape(self.radius):
            return steepest_in_radii(self, gradient, z)
        _, lower, upper = numbers(self, z)
        gradient = jax.lax.stop_gradient(jnp.nan_to_num(gradient))
        movable = ((gradient > 0) & (z < upper)) | ((gradient < 0) & (z > lower))
        slope = jnp.where(movable, jnp.abs(gradient), 0)
        count = jnp.minimum(
            jnp.max(jnp.asarray(self.coordinates, jnp.int32)), jnp.sum(movable, dtype=jnp.int32)
        )
        least = largest_where(
            lambda t: jnp.sum(slope >= t, dtype=jnp.int32) >= count, jnp.max(slope)
        )
        steeper = slope > least
        tied = movable & (slope == least)
        position = jnp.cumsum(tied.ravel(), dtype=jnp.int32).reshape(tied.shape)
        chosen = steeper | (tied & (position <= count - jnp.sum(steeper, dtype=jnp.int32)))
        return jnp.where(chosen, jnp.sign(gradient), 0) / jnp.maximum(count, 1).astype(slope.dtype)

    def dual_norm(self, gradient: Array) -> Array:
        """max_i |gradient_i|, a scalar. Differentiable, with derivative 0 at 0."""
        return jnp.max(magnitude(gradient))

    def size(self, x: Array, z: Array) -> Array:
        """sum_i |z_i - x_i|, a scalar. Differentiable, with derivative 0 where `z` equals `x`.

        With a radius for each coordinate in units of them: 1 at the edge.
        """
        require_one_shape(x, z)
        if np.shape(self.radius):
            return jnp.sum(magnitude(share_of(z - x, numbers(self, x)[0])))
        return jnp.sum(magnitude(z - x))

    def contains(self, x: Array, z: Array) -> Array:
        """bool scalar: `z` is in ball and box up to the l1 norm of `box.rounding`.

        In float32 that is at most about 1e-6 per pixel moved. False for NaN. Not differentiable.
        """
        require_one_shape(x, z)
        radius, lower, upper = numbers(self, x)
        if np.shape(self.radius):
            return near_in_radii(self, x, z) & in_box(z, lower, upper)
        near = within(self.size(x, z), radius, jnp.sum(rounding(x, z)))
        return near & in_box(z, lower, upper)
