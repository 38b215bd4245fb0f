"""The tightest bounds of a unit-wise relaxation: linear programs over the network (HiGHS)."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize, sparse

from jaxrobust import checks
from jaxrobust.duals.bounds import check_request, hidden_boxes
from jaxrobust.duals.graph import Node
from jaxrobust.duals.lines import Lines
from jaxrobust.duals.matrices import affine_maps, polyhedral, require_host
from jaxrobust.duals.milp import Band, Program, encode, goal, refuse_products
from jaxrobust.duals.relaxed_network import METHODS, Box, Region, Relaxed, prepare, relax
from jaxrobust.types import Array, LogitsFn, ThreatModel

_ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Where the lines around a smooth activation are taken."""


def lp_bounds(
    f: LogitsFn,
    x: Array,
    C: Array,
    threat: ThreatModel,
    *,
    boxes: Sequence[Box] | None = None,
    methods: Sequence[str] = METHODS,
    boxed: bool = False,
) -> np.ndarray:
    """Lower bounds on `C @ f(x')` over the ball around `x`, by one linear program per row.

    Minimizes over every unit's convex hull on its box (for a ReLU the triangle of Ehlers 2017;
    Wong's thesis, section 3.1): for given boxes this is the largest bound that any slopes reach
    (Salman et al. 2019, "A convex relaxation barrier"), and so `optimized_bounds` once converged.
    Smooth activations lie between five pairs of lines, which optimized slopes may beat.

    float64 on the host, by HiGHS; not to be traced or differentiated. What is returned is the
    dual value of the solver's multipliers, evaluated anew: sound by weak duality however exact
    the solver was, to float64's rounding and what the network's own precision put into its
    matrices.

    Args:
      f: any pure function of one example, as in `lower_bounds`.
      x: one example of any shape.
      C: `[rows, K]` for K logits.
      threat: a Linf or L1 ball.
      boxes: bounds of every node's source, in order; by default the best of `methods`.
      methods: what the default boxes are taken from, as in `lower_bounds`.
      boxed: whether the threat's pixel box counts.

    Returns:
      The bounds, a float64 array `[rows]` on the host, in units of `C @ f(x')`.

    Raises:
      ValueError: another threat, traced or non-finite input, values that depend on the input
        multiplied, and as `lower_bounds`.
      RuntimeError: the program is infeasible, which valid boxes never make it.
    """
    require_host(x)
    threat = polyhedral(threat, boxed=boxed)
    x = jnp.asarray(x)
    checks.images(x, lower=-np.inf, upper=np.inf)
    where = prepare(f, x, threat, boxed=boxed)
    refuse_products(where.graph)
    rows = np.asarray(check_request(where, C, methods), np.float64)

    @jax.jit
    def bound(x: Array) -> tuple[Box, ...]:
        return hidden_boxes(prepare(f, x, threat, boxed=boxed), methods=methods)

    held: Sequence[Box] = bound(x) if boxes is None else boxes
    band = functools.partial(_band, where)
    program = encode(where.graph, affine_maps(where.graph), x, threat, held, band)
    return np.array([_dual_value(program, row) for row in rows])


def _band(where: Region, node: Node, box: Box) -> Band:
    """The lines of `relaxed_network.relax`, with its allowance for rounding, at several alphas."""
    z, h = where.values[node.source.id], where.values[node.target.id]

    @jax.jit
    def sides() -> tuple[Relaxed, Relaxed]:
        alphas = jnp.asarray(_ALPHAS, z.dtype)
        tilted = jax.vmap(lambda a: relax(where, node, box, "crown", jnp.full_like(z, a)))(alphas)
        return relax(where, node, box, "interval"), tilted

    flat, tilted = jax.tree.map(np.asarray, sides())
    z, h = np.asarray(z), np.asarray(h)
    below = h - tilted.lower_gap - tilted.lower_slope * z
    above = h + tilted.upper_gap - tilted.upper_slope * z
    lines = map(Lines, tilted.lower_slope, below, tilted.upper_slope, above)
    return Band(Box(h - flat.lower_gap, h + flat.upper_gap), list(lines))


def _dual_value(program: Program, row: np.ndarray) -> float:
    """A lower bound on row . logits over the relaxed program, by weak duality."""
    cost, offset = goal(program, row)
    tied = program.low == program.high
    # every other row has one finite side
    sign = np.where(np.isfinite(program.high), 1.0, -1.0)[~tied]
    below = sparse.diags_array(sign) @ program.matrix[~tied]
    most = np.where(sign > 0, program.high[~tied], -program.low[~tied])
    equal, right = program.matrix[tied], program.low[tied]
    bounds = np.stack([program.lower, program.upper], axis=1)
    found = optimize.linprog(cost, below, most, equal, right, bounds, method="highs")
    if found.status == 2:
        raise RuntimeError("the linear program is infeasible: `boxes` do not hold the network")
    # without an answer the columns' bounds alone make a (loose) bound
    prices, ties = np.zeros(len(most)), np.zeros(len(right))
    if found.status == 0:
        prices, ties = np.minimum(found.ineqlin.marginals, 0), found.eqlin.marginals
    reduced = cost - below.T @ prices - equal.T @ ties
    ends = np.minimum(reduced * program.lower, reduced * program.upper)
    return float(prices @ most + ties @ right + ends.sum() + offset)
