"""What every norm-ball threat shares: its numbers, its pixel box and its rounding allowance."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import checks
from jaxrobust.types import Array, Scalar

ROUNDING_STEPS = 4
"""Units in the last place that a stored coordinate may be off and still count as inside."""


class BoxedBall(Protocol):
    """The fields of a ball around a clean example, intersected with a pixel box."""

    radius: Scalar
    lower: Scalar
    upper: Scalar


def pytree(cls: type) -> type:
    """Registers a frozen dataclass as a pytree with all fields as leaves.

    Unlike `jax.tree_util.register_dataclass` it is rebuilt without running `__post_init__`: a
    gradient with respect to a set is made of the same class, and its "radius" may be negative. And
    unlike it (JAX 0.10) two classes with the same field names have different tree structures:
    with equal ones `jit` would now and then run one norm's program for the other.
    """
    names = tuple(field.name for field in dataclasses.fields(cls))

    def flatten(threat: Any) -> tuple[tuple, None]:
        keys = (jax.tree_util.GetAttrKey(name) for name in names)
        return tuple((key, getattr(threat, key.name)) for key in keys), None

    def unflatten(_: None, leaves: Any) -> Any:
        threat = object.__new__(cls)
        for name, leaf in zip(names, leaves, strict=True):
            object.__setattr__(threat, name, leaf)
        return threat

    jax.tree_util.register_pytree_with_keys(cls, flatten, unflatten)
    return cls


def stack_leaves(threat: Any) -> None:
    """Broadcasts the fields of `threat` to one common shape, in place, while it is constructed.

    `vmap` wants a leading axis on every leaf, so `Linf(radii)` must stack its box along with its
    radii. Placeholders that JAX puts into pytrees are left alone. Raises ValueError when two
    fields hold stacks of different shapes.
    """
    fields = {f.name: getattr(threat, f.name) for f in dataclasses.fields(threat)}
    fields = {name: v for name, v in fields.items() if _is_number(v)}
    shape = np.broadcast_shapes(*(np.shape(v) for v in fields.values()))
    for name, value in fields.items():
        if np.shape(value) != shape:
            on_device = isinstance(value, jax.Array)
            stacked = (jnp if on_device else np).broadcast_to(value, shape)
            object.__setattr__(threat, name, stacked)


def validate(threat: BoxedBall) -> None:
    """Raises ValueError for a radius or box known on the host that describes no set.

    The radius must be finite and at least 0, and `lower <= upper`; traced values pass.
    """
    checks.nonnegative("radius", threat.radius)
    if checks.is_concrete(threat.lower) and checks.is_concrete(threat.upper):
        lower, upper = np.asarray(threat.lower), np.asarray(threat.upper)
        if not (lower <= upper).all():
            raise ValueError(
                f"lower must be at most upper, got lower={threat.lower} and upper={threat.upper}; "
                "use -inf and inf for inputs without a box"
            )


def numbers(threat: BoxedBall, x: Array) -> tuple[Array, Array, Array]:
    """Radius, lower and upper bound as scalars of `x`'s dtype.

    Raises ValueError for integer inputs (the radius would truncate to 0) and for a stack of sets
    used without `vmap` (its radii would be taken for one radius per coordinate).
    """
    dtype = jnp.result_type(x)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(
            f"threat models need floating-point inputs, got {dtype}; "
            "convert 8-bit images with x / 255"
        )
    shape = np.shape(threat.radius)
    if shape:
        raise ValueError(
            f"this {type(threat).__name__} holds a stack of sets of shape {shape}; "
            "map over it: jax.vmap(lambda threat: ...)(threats)"
        )
    return (
        jnp.asarray(threat.radius, dtype),
        jnp.asarray(threat.lower, dtype),
        jnp.asarray(threat.upper, dtype),
    )


def magnitude(v: Array) -> Array:
    """|v| with derivative 0 at 0, where that of `jnp.abs` is 1 and would push off the center."""
    return v * jnp.sign(v)


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


def _is_number(value: Any) -> bool:
    return checks.is_concrete(value) or isinstance(value, jax.core.Tracer)
