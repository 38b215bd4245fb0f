"""Frozen dataclasses as pytrees: threat sets and attacks, whose numbers are traced."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar, cast

import jax

Class = TypeVar("Class")


def pytree(cls: type[Class]) -> type[Class]:
    """Registers a frozen dataclass as a pytree; fields with metadata `static` are no leaves.

    Unlike `jax.tree_util.register_dataclass` it is rebuilt without running `__post_init__`: a
    gradient with respect to a set is made of the same class, and its "radius" may be negative. And
    unlike it (JAX 0.10) two classes with the same field names have different tree structures:
    with equal ones `jit` would now and then run one norm's program for the other.
    """
    fields = dataclasses.fields(cast(Any, cls))
    static = tuple(field.name for field in fields if field.metadata.get("static"))
    traced = tuple(field.name for field in fields if field.name not in static)

    def flatten(value: Any) -> tuple[tuple, tuple]:
        leaves = tuple((jax.tree_util.GetAttrKey(name), getattr(value, name)) for name in traced)
        return leaves, tuple(getattr(value, name) for name in static)

    def unflatten(structure: tuple, leaves: Any) -> Any:
        value = object.__new__(cls)
        for name, part in zip((*traced, *static), (*leaves, *structure), strict=True):
            object.__setattr__(value, name, part)
        return value

    jax.tree_util.register_pytree_with_keys(cls, flatten, unflatten)
    return cls
