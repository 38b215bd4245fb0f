"""What tells one run or evaluation from another: arrays by a hash, settings as JSON."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.types import Attack, PyTree

KIND = "(kind)"
"""Key of what `contents` describes; a name that no variable can have."""

SHOWN, WIDTH = 6, 200
"""Differences that a message names, the others being counted; characters of a value."""


def fingerprint(tree: PyTree) -> str:
    """16 hex digits that depend on every array of `tree`, its type, its shape and its place."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape};".encode())
        # By bytes, which types of extensions such as bfloat16 do not give otherwise.
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()[:16]


def describe(value: Any) -> Any:
    """A setting of an attack as JSON: functions by name, sets and attacks by their fields.

    Raises:
      ValueError: a function made inside another one, or an object that is neither number, text,
        array, function nor dataclass: it may hold numbers that its name does not show.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Attack):
        return {"kind": describe(type(value)), **describe(dict(value.settings))}
    if isinstance(value, Mapping):
        return {str(name): describe(part) for name, part in value.items()}
    if isinstance(value, tuple | list):
        return [describe(part) for part in value]
    if isinstance(value, functools.partial):
        return describe([value.func, value.args, value.keywords])
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        is_number = value.ndim == 0 and not _is_key(value)
        return value.item() if is_number else fingerprint(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return {"kind": type(value).__qualname__, **describe(fields)}
    name = getattr(value, "__qualname__", "<unnamed>")
    if not callable(value) or "<" in name:
        raise ValueError(
            f"{value!r} may hold numbers that its name does not show, so that results in a folder "
            "could be another's; use a module-level function or an `Attack`, or give no folder"
        )
    return f"{value.__module__}.{name}"


def differences(held: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """`name: a there, b here; ...` for the entries that differ; empty where none does."""
    told = [f"{name}: {there} there, {here} here" for name, there, here in _changes(held, ours, "")]
    left = len(told) - SHOWN
    return "; ".join([*told[:SHOWN], f"and {left} more"] if left > 0 else told)


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _changes(there: Any, here: Any, name: str) -> Iterator[tuple[str, str, str]]:
    """Name, here and there of what differs, down to where the two are of another kind."""
    if not (isinstance(there, dict) and isinstance(here, dict)):
        yield name, _shown(there), _shown(here)
        return
    kinds = there.get(KIND) != here.get(KIND)
    for key in (KIND,) if kinds else there | here:
        if there.get(key) != here.get(key):
            held, ours = (side.get(key, "nothing") for side in (there, here))
            yield from _changes(held, ours, f"{name}.{key}" if name else key)


def _shown(value: Any) -> str:
    if isinstance(value, dict) and isinstance(value.get(KIND), str):
        return value[KIND]
    text = repr(value)
    return text if len(text) <= WIDTH else f"{text[:WIDTH]}..."
