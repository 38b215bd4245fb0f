"""What every norm-ball threat shares: its numbers, its pixel box and its rounding allowance."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxrobust import checks
from jaxrobust.types import Array, BoxedBall

ROUNDING_STEPS = 4
"""Units in the last place that a stored coordinate may be off and still count as inside."""


def stack_leaves(threat: Any) -> None:
    """Broadcasts the fields of `threat` to one common shape, in place, while it is constructed.

    `vmap` wants a leading axis on every leaf, so `Linf(radii)` must stack its box along with its
    radii. A single radius with a box of arrays stays single. Placeholders that JAX puts into
    pytrees are left alone. Raises ValueError when two fields hold stacks of different shapes.
    """
    fields = {f.name: getattr(threat, f.name) for f in dataclasses.fields(threat)}
    fields = {name: v for name, v in fields.items() if is_number(v)}
    if not np.shape(fields.get("radius", 0.0)):
        fields = {name: v for name, v in fields.items() if name in ("lower", "upper")}
    try:
        shape = np.broadcast_shapes(*(np.shape(v) for v in fields.values()))
    except ValueError as error:
        told = ", ".join(f"{name} {np.shape(v)}" for name, v in fields.items())
        raise ValueError(f"the numbers of a set need one common shape, got {told}") from error
    for name, value in fields.items():
        if np.shape(value) != shape:
            on_device = isinstance(value, jax.Array)
            stacked = (jnp if on_device else np).broadcast_to(value, shape)
            object.__setattr__(threat, name, stacked)


def validate(threat: BoxedBall) -> None:
    """Raises ValueError for a radius or box known on the host that describes no set.

    The radius must be finite and at least 0, the box of numbers, and `lower <= upper`; traced
    values pass.
    """
    checks.nonnegative("radius", threat.radius)
    for name, bound in (("lower", threat.lower), ("upper", threat.upper)):
        if not is_number(bound):
            raise ValueError(f"{name} must be a number or an array of numbers, got {bound!r}")
    if checks.is_concrete(threat.lower) and checks.is_concrete(threat.upper):
        lower, upper = np.asarray(threat.lower), np.asarray(threat.upper)
        if not (lower <= upper).all():
            raise ValueError(
                f"lower must be at most upper, got lower={threat.lower} and upper={threat.upper}; "
                "use -inf and inf for inputs without a box"
            )


def numbers(
    threat: BoxedBall, x: Array, *, one_radius: str | None = None
) -> tuple[Array, Array, Array]:
    """Radius, lower and upper bound in `x`'s dtype: numbers, or one for each coordinate of `x`.

    Args:
      one_radius: what asks, where it knows no radii that differ between coordinates.

    Raises ValueError for integer inputs (the radius would truncate to 0), for a stack of sets used
    without `vmap`, and for a radius per coordinate where `one_radius` is told.
    """
    dtype = jnp.result_type(x)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(
            f"threat models need floating-point inputs, got {dtype}; "
            "convert 8-bit images with x / 255"
        )
    found = (threat.radius, threat.lower, threat.upper)
    for shape in map(np.shape, found):
        if shape not in ((), jnp.shape(x)):
            raise ValueError(
                f"this {type(threat).__name__} holds numbers of shape {shape}; an example of shape "
                f"{jnp.shape(x)} takes one number, or one for each coordinate. Map over a stack of "
                "sets: jax.vmap(lambda threat: ...)(threats); attacks.batched and evaluate take "
                "one set for each example"
            )
    if one_radius and np.shape(threat.radius):
        raise ValueError(
            f"{one_radius} measures one distance and takes one radius for all coordinates, got "
            f"{np.shape(threat.radius)}; pgd, apgd and their kin take one for each, and a mask can "
            "be a box: lower = upper = x where nothing may move"
        )
    radius, lower, upper = (jnp.asarray(number, dtype) for number in found)
    return radius, lower, upper


def require_one_shape(x: Array, z: Array, *, names: tuple[str, str] = ("x", "z")) -> None:
    """Raises ValueError unless both have one shape: a batch would spread over one example."""
    if jnp.shape(x) != jnp.shape(z):
        raise ValueError(
            f"{names[0]} and {names[1]} must have one shape, got {jnp.shape(x)} and "
            f"{jnp.shape(z)}; map over a batch with jax.vmap"
        )


def share_of(part: Array, radius: Array) -> Array:
    """|part| / radius for each coordinate, with part's sign: 0 / 0 is 0, anything else / 0 inf."""
    still = radius == 0
    apart = jnp.where(part == 0, jnp.zeros_like(part), jnp.sign(part) * jnp.inf)
    return jnp.where(still, apart, part / jnp.where(still, 1, radius))


def in_radii(ball: Any, x: Array) -> Any:
    """`ball` in units of its radii, one for each coordinate: of radius 1 around 0."""
    radius, lower, upper = numbers(ball, x)
    room = [jnp.where(radius > 0, share_of(end - x, radius), 0) for end in (lower, upper)]
    # x lies in the box, but for rounding
    ends = {"lower": jnp.minimum(room[0], 0), "upper": jnp.maximum(room[1], 0)}
    return dataclasses.replace(ball, radius=1.0, **ends)


def from_radii(ball: Any, x: Array, unit: Array) -> Array:
    """The point of `ball` around `x` at `unit` of `in_radii`."""
    radius, lower, upper = numbers(ball, x)
    moved = jnp.where(radius > 0, x + radius * unit, x)
    return jnp.clip(moved, lower, upper)


def projected_in_radii(ball: Any, x: Array, z: Array) -> Array:
    """The point of `ball` closest to `z` where distances count in units of the radii."""
    unit = jnp.where(ball.radius > 0, share_of(z - x, numbers(ball, x)[0]), 0)
    return from_radii(ball, x, in_radii(ball, x).project(jnp.zeros_like(x), unit))


def near_in_radii(ball: Any, x: Array, z: Array) -> Array:
    """Whether `z` is in `ball`, its pixel box aside, up to `rounding` of each coordinate."""
    # a coordinate that is held has nothing to be rounded
    moved = jnp.where(ball.radius > 0, jnp.maximum(jnp.abs(z - x) - rounding(x, z), 0), z - x)
    size = ball.size(jnp.zeros_like(x), moved)
    return within(size, jnp.ones_like(size), jnp.zeros_like(size))


def steepest_in_radii(ball: Any, gradient: Array, z: Array) -> Array:
    """The steepest step of a ball with a radius for each coordinate, at most 1 in the norm.

    That of the gradient in units of the radii, and as long there as the largest of them.
    """
    radius, _, _ = numbers(ball, z)
    largest = jnp.max(radius)
    part = radius / jnp.where(largest > 0, largest, 1)
    single = dataclasses.replace(ball, radius=largest)
    return part * single.steepest(part * jnp.nan_to_num(gradient), z)


def magnitude(v: Array) -> Array:
    """|v| with derivative 0 at 0, where that of `jnp.abs` is 1 and would push off the center.

    By comparisons: on a CPU XLA's maximum or sum of `jnp.abs` takes ten times as long (jax 0.10).
    """
    # 0 v, so that NaN stays
    return jnp.where(v > 0, v, jnp.where(v < 0, -v, 0 * v))


def rounding(x: Array, z: Array) -> Array:
    """How far float rounding may have moved each coordinate of `z`, in the shape of `x`.

    `ROUNDING_STEPS` machine epsilons of 1 + |x| (1 is the scale of pixels) per coordinate that
    differs from `x`, and 0 for the others, which no computation has touched. Measured in the
    threat's own norm this allowance grows with the dimension as the worst-case error does.
    """
    step = ROUNDING_STEPS * jnp.finfo(jnp.result_type(x)).eps
    return jnp.where(z == x, 0, step * (1 + jnp.abs(x)))


def within(size: Array, radius: Array, allowance: Array) -> Array:
    """Whether `size` is at most `radius`, up to `allowance` and the rounding of the radius."""
    step = ROUNDING_STEPS * jnp.finfo(jnp.result_type(size)).eps
    return size <= radius * (1 + step) + allowance


def in_box(z: Array, lower: Array, upper: Array) -> Array:
    """Whether all of `z` is in [lower, upper] up to rounding of the bounds; False for NaN."""
    step = ROUNDING_STEPS * jnp.finfo(jnp.result_type(z)).eps
    above = z >= lower - step * (1 + jnp.abs(lower))
    below = z <= upper + step * (1 + jnp.abs(upper))
    return jnp.all(above & below)


def is_number(value: Any) -> bool:
    """Whether it is a number or an array of numbers, known on the host or traced."""
    return checks.is_concrete(value) or isinstance(value, Tracer)
