"""The Wasserstein ball: mass moves between nearby pixels, and moving it has a price."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import checks, sinkhorn
from jaxrobust.pytree import pytree
from jaxrobust.sinkhorn.window import costs, layout
from jaxrobust.threats.box import in_box, is_number
from jaxrobust.types import Array, Key, Scalar

MASS = 1e-5
"""Relative error of the total mass that still counts as kept."""
SLACK = 3e-3
"""By how much, relatively, the measured transport cost may exceed the radius."""
UNMET = 5e-2
"""Share of the mass that the measured plan may leave unmet, priced by its multipliers.

`MASS` where the search of that plan ran out of steps, as it may below a radius of about 1e-4.
"""
SHARP = 10_000.0
"""lam |w - x| / mass of the linear oracle's target w: how little its entropy counts."""
STEPS = 300
"""Steps of that search; short moves take the most."""


@pytree
@dataclasses.dataclass(frozen=True)
class Wasserstein:
    """The set {z : W(x, z) <= radius, sum z = sum x, 0 <= z <= upper} of images.

    W(x, z) is the least cost of moving the pixels of `x` to those of `z` within a window around
    each pixel, per unit of mass: `cost[a, b]` is what it costs to move mass by (a, b) pixels from
    the center. The channels of an image share the window and exchange nothing. `project` is the
    entropic projection with weight `lam` of Wong's thesis, section 5.1, whose points lie in the
    set; the smaller `lam` the more it blurs (1000 on MNIST, 3000 on CIFAR-10).

    All fields are leaves: an array of radii makes a stack of sets for `vmap`. ValueError for a
    negative, NaN or infinite radius, `lam <= 0`, an `upper` that is negative or NaN, or a `cost`
    that is no window of odd sides with finite nonnegative entries and 0 in its center
    (`sinkhorn.window` makes one).
    """

    radius: Scalar
    upper: Scalar = 1.0
    lam: Scalar = 1000.0
    cost: Any = dataclasses.field(default_factory=lambda: sinkhorn.window(5))

    def __post_init__(self) -> None:
        checks.nonnegative("radius", self.radius)
        checks.positive("lam", self.lam)
        if not (is_number(self.upper) and _at_least_0(self.upper)):
            raise ValueError(f"upper must be a number of at least 0, or inf, got {self.upper!r}")
        shape = np.shape(self.radius)
        # a stack of sets may have one window for each
        if np.ndim(self.cost) == 2 or not shape or np.shape(self.cost)[:-2] != shape:
            costs(self.cost, np.dtype(np.float32))
        if shape and np.ndim(self.cost) == 2:
            for name, own in (("upper", ()), ("lam", ()), ("cost", np.shape(self.cost))):
                stacked = jnp.broadcast_to(jnp.asarray(getattr(self, name)), (*shape, *own))
                object.__setattr__(self, name, stacked)

    @property
    def lower(self) -> float:
        """Mass is never negative."""
        return 0.0

    def sample(self, key: Key, x: Array) -> Array:
        """The projection of `x` with its pixels moved by uniform noise of the radius."""
        noise = jax.random.uniform(key, x.shape, x.dtype, -1, 1)
        return self.project(x, x + jnp.asarray(self.radius, x.dtype) * noise)

    def project(self, x: Array, z: Array) -> Array:
        """The entropic projection of `z` `[H, W]` or `[H, W, C]`: inside, its mass that of `x`.

        See `sinkhorn.projected`, which also returns the evidence. Differentiable.
        """
        return self.solve(x, z).z

    def solve(self, x: Array, z: Array, start: sinkhorn.Duals | None = None) -> sinkhorn.Projection:
        """`project` with its evidence, if given from the multipliers of a projection nearby."""
        return sinkhorn.projected(
            x, z, radius=self.radius, lam=self.lam, cost=self.cost, upper=self.upper, start=start
        )

    def opening(self, x: Array) -> sinkhorn.Duals:
        """Multipliers for the first `resume`."""
        return self.solve(x, x).duals

    def resume(self, x: Array, z: Array, start: sinkhorn.Duals) -> tuple[Array, sinkhorn.Duals]:
        """`project`, several times faster from the multipliers of a projection nearby."""
        projection = self.solve(x, z, start)
        return projection.z, projection.duals

    def steepest(self, gradient: Array, z: Array) -> Array:
        """The move from `z` at transport cost 1 that a function with this gradient gains most by.

        Exact, by `sinkhorn.linear_maximizer`; it ignores the upper end of the box.
        """
        gradient = jax.lax.stop_gradient(jnp.nan_to_num(gradient))
        one = jnp.ones((), gradient.dtype)
        return sinkhorn.linear_maximizer(z, gradient, radius=one, cost=self.cost).z - z

    def extreme(self, x: Array, gradient: Array) -> Array:
        """The image within the radius of `x`, box aside, that maximizes `<gradient, z>`; exact."""
        return sinkhorn.linear_maximizer(x, gradient, radius=self.radius, cost=self.cost).z

    def extreme_in_box(self, x: Array, gradient: Array) -> Array:
        """An image of the set, box included, close to the best for `<gradient, z>`.

        The projection of x + s gradient: for large s that is the linear maximizer up to an entropy
        of weight 1 / (lam s), as the oracle of Wu, Wang & Yu (2020, section 4.2). It gains 98 % of
        what linear programs find and more, and stays in the set.
        """
        gradient = jax.lax.stop_gradient(jnp.nan_to_num(gradient))
        steepness = jnp.asarray(self.lam, x.dtype) * jnp.max(jnp.abs(gradient))
        far = SHARP * jnp.sum(x) / jnp.where(steepness > 0, steepness, 1)
        return jnp.where(steepness > 0, self.project(x, x + far * gradient), x)

    def dual_norm(self, gradient: Array) -> Array:
        """max of (g_{i + delta} - g_i) / cost_delta: what a unit of mass can gain at cost 1.

        The dual norm over all images of mass 1, a scalar; one image may gain less.
        """
        lines = layout(gradient, self.cost)
        prices = costs(self.cost, gradient.dtype)
        flat = lines.lines(gradient, blank=-jnp.inf)
        rises = jnp.stack(lines.shifts(flat, -jnp.inf)) - flat[None]
        dear = prices[:, None, None] > 0
        ratio = jnp.where(dear, rises / jnp.where(dear, prices[:, None, None], 1), 0)
        # Blanks between the rows are no pixels: they neither send nor receive.
        return jnp.max(jnp.where(jnp.isfinite(ratio), ratio, 0))

    def size(self, x: Array, z: Array) -> Array:
        """W(x, z), a scalar, to about .2 % (see `sinkhorn.distance`); infinite where it fails.

        It fails where `z` has other mass than `x` or holds mass out of every window's reach.
        Not differentiable.
        """
        found = sinkhorn.distance(x, z, cost=self.cost, steps=STEPS)
        met = found.residual <= jnp.where(found.converged, UNMET, MASS)
        total = jnp.sum(x)
        moved = jnp.sum(jnp.abs(z - x)) / jnp.where(total > 0, total, 1)
        # Next to nothing, as rounding moves it, is within reach of every window.
        little = moved * jnp.max(jnp.asarray(self.cost, x.dtype))
        return jnp.where(moved <= MASS, little, jnp.where(met, found.estimate, jnp.inf))

    def contains(self, x: Array, z: Array) -> Array:
        """bool scalar: mass is kept, W(x, z) <= radius and 0 <= z <= upper, up to tolerances.

        The total mass to `MASS` and the distance to `SLACK`, relatively; `MASS` stands in for the
        slack at small radii. False for NaN.
        """
        return self.measure(x, z)[0]

    def measure(self, x: Array, z: Array) -> tuple[Array, Array]:
        """`contains` and `size` of one search."""
        radius, total, size = jnp.asarray(self.radius, x.dtype), jnp.sum(x), self.size(x, z)
        kept = jnp.abs(jnp.sum(z) - total) <= MASS * total
        near = size <= radius * (1 + SLACK) + MASS
        zero = jnp.zeros((), x.dtype)
        return kept & near & in_box(z, zero, jnp.asarray(self.upper, x.dtype)), size


def _at_least_0(upper: Scalar) -> bool:
    return not checks.is_concrete(upper) or bool((np.asarray(upper) >= 0).all())
