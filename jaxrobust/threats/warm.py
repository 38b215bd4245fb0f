"""Projections that start from the one before, for sets whose projection is itself a search."""

from __future__ import annotations

from typing import Any

from jaxrobust.types import Array, PyTree, ThreatModel


def opening(threat: ThreatModel, x: Array) -> PyTree:
    """What the first `resume` of an attack around `x` starts from; empty for closed forms."""
    return threat.opening(x) if hasattr(threat, "opening") else ()


def resume(threat: Any, x: Array, z: Array, state: PyTree) -> tuple[Array, PyTree]:
    """`threat.project(x, z)` from the state of a projection nearby, and the state it leaves.

    The point is that of `project` up to the tolerance of its search: only the time differs.
    """
    if hasattr(threat, "resume"):
        return threat.resume(x, z, state)
    return threat.project(x, z), state
