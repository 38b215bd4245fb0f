"""Duals: certified bounds of any network over norm balls (AutoDual)."""

from jaxrobust.duals.bounds import (
    METHODS,
    hidden_boxes,
    lower_bounds,
    margin_bounds,
    margin_rows,
    row_bounds,
)
from jaxrobust.duals.graph import Graph, Node, Ref, Step, pull, run
from jaxrobust.duals.lines import Lines
from jaxrobust.duals.optimized import Optimized, optimized_bounds
from jaxrobust.duals.region import Box, Region, Relaxed, prepare, relax
from jaxrobust.duals.relaxations import Relaxation, register, relaxation
from jaxrobust.duals.support import support
from jaxrobust.duals.trace import UnsupportedOperation, trace

__all__ = [
    "METHODS",
    "Box",
    "Graph",
    "Lines",
    "Node",
    "Optimized",
    "Ref",
    "Region",
    "Relaxation",
    "Relaxed",
    "Step",
    "UnsupportedOperation",
    "hidden_boxes",
    "lower_bounds",
    "margin_bounds",
    "margin_rows",
    "optimized_bounds",
    "prepare",
    "pull",
    "register",
    "relax",
    "relaxation",
    "row_bounds",
    "run",
    "support",
    "trace",
]
