"""What tells a checkpoint that is whole from one that something has changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxrobust.types import PyTree

Rows = Sequence[Mapping[str, Any]]


def seal(state: PyTree, history: Rows) -> dict[str, str]:
    """Fingerprints of a state of host arrays, every byte of it, and of a history."""
    return {"state": _of_arrays(state), "history": _of_rows(history)}


def broken(held: Any, state: PyTree, history: Rows) -> str | None:
    """Which part, "state" or "history", is not what was sealed; None where all is well."""
    found = seal(state, history)
    known = held if isinstance(held, Mapping) else {}
    return next((name for name, value in found.items() if known.get(name) != value), None)


def same(one: Rows, other: Rows) -> bool:
    """Whether two histories are equal to the last digit, NaN included."""
    return _of_rows(one) == _of_rows(other)


def _of_rows(history: Rows) -> str:
    return hashlib.sha256(json.dumps(list(history), sort_keys=True).encode()).hexdigest()


def _of_arrays(state: PyTree) -> str:
    # By names, in their order: read without knowing its types, a state is made of dicts and lists.
    leaves = {_name(path): np.asarray(a) for path, a in jax.tree_util.tree_leaves_with_path(state)}
    digest = hashlib.sha256()
    for name, array in sorted(leaves.items()):
        digest.update(f"{name} {array.dtype} {array.shape};".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _name(path: Sequence[Any]) -> str:
    kinds = ("name", "key", "idx")
    return "/".join(str(next(getattr(p, k) for k in kinds if hasattr(p, k))) for p in path)
