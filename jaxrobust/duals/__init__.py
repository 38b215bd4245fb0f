"""Duals: certified bounds of any network over norm balls (AutoDual)."""

from jaxrobust.duals.bounds import (
    hidden_boxes,
    lower_bounds,
    margin_bounds,
    margin_rows,
    row_bounds,
)
from jaxrobust.duals.branch_and_bound import Verdict, verify
from jaxrobust.duals.cascade import (
    Decision,
    cascade_predict,
    cascade_verdict,
    decide,
    uncertified,
)
from jaxrobust.duals.certificates import (
    Certificate,
    certify,
    detect,
    robust_error,
    robust_logits,
    robust_loss,
)
from jaxrobust.duals.concretize import support
from jaxrobust.duals.exact import Exact, exact_margin, exact_margins
from jaxrobust.duals.graph import Graph, Node, Ref, Step, pull, run
from jaxrobust.duals.lines import Lines
from jaxrobust.duals.lp import lp_bounds
from jaxrobust.duals.optimized import Optimized, optimized_bounds
from jaxrobust.duals.projections import (
    certify_randomly,
    probabilistic_margin_bounds,
    projected_margin_bounds,
)
from jaxrobust.duals.radius import Radius, certified_radius
from jaxrobust.duals.relaxations import Relaxation, register, relaxation
from jaxrobust.duals.relaxed_network import METHODS, Box, Region, Relaxed, prepare, relax
from jaxrobust.duals.specification import Property, margins
from jaxrobust.duals.trace import UnsupportedOperation, trace
from jaxrobust.duals.vnnlib import VnnlibProblem, box_threat, read_vnnlib

__all__ = [
    "METHODS",
    "Box",
    "Certificate",
    "Decision",
    "Exact",
    "Graph",
    "Lines",
    "Node",
    "Optimized",
    "Property",
    "Radius",
    "Ref",
    "Region",
    "Relaxation",
    "Relaxed",
    "Step",
    "UnsupportedOperation",
    "Verdict",
    "VnnlibProblem",
    "box_threat",
    "cascade_predict",
    "cascade_verdict",
    "certified_radius",
    "certify",
    "certify_randomly",
    "decide",
    "detect",
    "exact_margin",
    "exact_margins",
    "hidden_boxes",
    "lower_bounds",
    "lp_bounds",
    "margin_bounds",
    "margin_rows",
    "margins",
    "optimized_bounds",
    "prepare",
    "probabilistic_margin_bounds",
    "projected_margin_bounds",
    "pull",
    "read_vnnlib",
    "register",
    "relax",
    "relaxation",
    "robust_error",
    "robust_logits",
    "robust_loss",
    "row_bounds",
    "run",
    "support",
    "trace",
    "uncertified",
    "verify",
]
