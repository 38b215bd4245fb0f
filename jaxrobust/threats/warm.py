"""What sets whose projection or distance is itself a search can share between two of them."""

from __future__ import annotations

from typing import Any

from jaxrobust.types import Array, PyTree


def opening(threat: Any, x: Array) -> PyTree:
    """What the first `resume` of an attack around `x` starts from; empty for closed forms."""
    return threat.opening(x) if hasattr(threat, "opening") else ()


def resume(threat: Any, x: Array, z: Array, state: PyTree) -> tuple[Array, PyTree]:
    """`threat.project(x, z)` from the state of a projection nearby, and the state it leaves.

    The point is that of `project` up to the tolerance of its search: only the time differs.
    """
    if hasattr(threat, "resume"):
        return threat.resume(x, z, state)
    return threat.project(x, z), state


def measure(threat: Any, x: Array, z: Array) -> tuple[Array, Array]:
    """`threat.contains(x, z)` and `threat.size(x, z)`, by one search where the set offers it."""
    if hasattr(threat, "measure"):
        return threat.measure(x, z)
    return threat.contains(x, z), threat.size(x, z)
