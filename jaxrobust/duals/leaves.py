"""The end of a branch: subdomains on which a network is affine, by linear programs (HiGHS).

The program's prices are multipliers of the subdomain's bound, so that the solver need not be
trusted: what counts is the bound at these. A subdomain without a point has no least value; points
outside of it are let in at a price per unit, and the bound rises with the price.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize, sparse

from jaxrobust.duals.branching import evaluate
from jaxrobust.duals.graph import run
from jaxrobust.duals.relaxations import relaxation
from jaxrobust.duals.relaxed_network import prepare
from jaxrobust.duals.specification import Property
from jaxrobust.duals.subdomains import Domain, Multipliers, Root, flat, split
from jaxrobust.threats import L1, Linf
from jaxrobust.types import Array, LogitsFn, ThreatModel

PRICES = (1e2, 1e4, 1e6)
"""What it costs to be as far from the subdomain as the sources are large, in units of the rows."""


def settle(
    f: LogitsFn,
    x: Array,
    threat: ThreatModel,
    goal: Property,
    root: Root,
    domain: Domain,
    duals: Multipliers,
    units: Sequence[int],
) -> tuple[float, list[np.ndarray]]:
    """(the best bound, inputs where the property may be least) of a subdomain without kinks.

    Args:
      units: those whose boxes are smaller than the region's.

    Balls other than Linf and L1 are no polyhedra: of them nothing new is learned.
    """
    if not isinstance(threat, Linf | L1) or not units:
        return -np.inf, []
    # filled up to a power of two, for few compiled programs
    filled = np.pad(units, (0, (1 << (len(units) - 1).bit_length()) - len(units)), mode="edge")
    rows, sources = map(_float64, _affine(f, x, threat, goal, domain, jnp.asarray(filled)))
    sources = sources[0][: len(units)], sources[1][: len(units)]
    own = np.asarray(goal.clauses) == domain.clause
    asked = rows[0][own], rows[1][own]
    lower, points = -np.inf, []
    for price in PRICES:
        found = _program(x, threat, asked, sources, domain, units, price)
        if found is None:
            break
        point, weights, mu, apart = found
        points.append(point)
        alike = np.zeros(len(own), duals.weights.dtype)
        alike[own] = weights
        held = np.zeros_like(duals.mu)
        held[list(units)] = mu
        own_duals = duals._replace(weights=alike, mu=held)
        lower = max(lower, float(evaluate(f, x, threat, goal, root, domain, own_duals)))
        if lower > 0 or apart <= 0:
            break
    return lower, points


@jax.jit
def _affine(
    f: LogitsFn,
    x: Array,
    threat: ThreatModel,
    goal: Property,
    domain: Domain,
    units: Array,
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """(values at `x`, slopes) of the property's rows and of the sources of `units`."""
    where = prepare(f, x, threat, boxed=True)
    ends = zip(split(where, domain.lower), split(where, domain.upper), strict=True)
    pieces = {}
    for node, (low, high) in zip(where.graph.nodes, ends, strict=True):
        pieces[node.target.id] = relaxation(node.kind).lines(low, high, None, *node.args)

    def rows(z: Array) -> tuple[Array, Array]:
        values = run(
            where.graph,
            z,
            lambda node, v: (
                node.gathered(pieces[node.target.id].lower_slope * v)
                + pieces[node.target.id].lower_intercept
            ),
        )
        sources = flat([values[n.source.id] for n in where.graph.nodes])
        A, b = (jnp.asarray(v, z.dtype) for v in (goal.A, goal.b))
        return A @ values[where.graph.output.id] + b, sources[units]

    with jax.default_matmul_precision("highest"):
        (value, source), (slope, way) = rows(x), jax.jacrev(rows)(x)
    return (value, slope.reshape(len(value), -1)), (source, way.reshape(len(source), -1))


def _float64(pair: tuple[Array, Array]) -> tuple[np.ndarray, np.ndarray]:
    value, slope = pair
    return np.asarray(value, np.float64), np.asarray(slope, np.float64)


def _program(
    x: Array,
    threat: Linf | L1,
    rows: tuple[np.ndarray, np.ndarray],
    sources: tuple[np.ndarray, np.ndarray],
    domain: Domain,
    units: Sequence[int],
    price: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float] | None:
    """min max_r rows + price * distance: the input, the rows' weights, `mu`, and the distance.

    Columns: how far each coordinate rises and falls, the largest row, the distance.
    """
    radius, low, high = (
        np.broadcast_to(np.asarray(v, np.float64), np.shape(x)).ravel()
        for v in (threat.radius, threat.lower, threat.upper)
    )
    center = np.asarray(x, np.float64).ravel()
    up = np.maximum(np.minimum(radius, high - center), 0)
    down = np.maximum(np.minimum(radius, center - low), 0)
    (value, slope), (source, way) = rows, sources
    least, most = (np.asarray(v, np.float64)[list(units)] for v in domain[:2])
    ones, none = np.ones((len(value), 1)), np.zeros((len(value), 1))
    far = np.ones((len(source), 1))
    limits = [
        np.hstack([slope, -slope, -ones, none]),
        np.hstack([-way, way, 0 * far, -far]),
        np.hstack([way, -way, 0 * far, -far]),
    ]
    ends = [-value, source - least, most - source]
    if isinstance(threat, L1):
        share = 1 / np.where(radius > 0, radius, 1)
        limits.append(np.concatenate([share, share, [0, 0]])[None])
        ends.append(np.ones(1))
    matrix, right = sparse.csr_array(np.vstack(limits)), np.concatenate(ends)
    room = up + down
    sizes = [float(np.max(np.abs(v) + np.abs(w) @ room)) for v, w in (rows, sources)]
    scale = max(sizes[0], 1e-12) / max(sizes[1], 1e-12)
    cost = np.concatenate([np.zeros(2 * len(center)), [1.0, price * scale]])
    bounds = np.concatenate(
        [
            np.stack([np.zeros_like(up), up], 1),
            np.stack([np.zeros_like(down), down], 1),
            [[-np.inf, np.inf], [0, np.inf]],
        ]
    )
    found = optimize.linprog(cost, matrix, right, bounds=bounds, method="highs")
    if found.status != 0:
        return None
    n, m, k = len(center), len(value), len(source)
    prices = -np.minimum(found.ineqlin.marginals, 0)
    mu = prices[m : m + k] - prices[m + k : m + 2 * k]
    point = (center + found.x[:n] - found.x[n : 2 * n]).reshape(np.shape(x))
    return point, prices[:m], mu, float(found.x[-1])
