"""Local transport as explicit linear and quadratic programs in float64, for tiny images."""

import numpy as np
import scipy.sparse as sparse
from scipy.optimize import linprog, nnls


def transport(shape, cost):
    """Rows and columns of a local plan as sparse matrices on its entries, and their costs."""
    height, width = shape
    reach = [side // 2 for side in cost.shape]
    entries = [
        (r * width + c, (r + a) * width + c + b, cost[a + reach[0], b + reach[1]])
        for r in range(height)
        for c in range(width)
        for a in range(-reach[0], reach[0] + 1)
        for b in range(-reach[1], reach[1] + 1)
        if 0 <= r + a < height and 0 <= c + b < width
    ]
    source, goal, costs = (np.array(v) for v in zip(*entries, strict=True))
    one, k, size = np.ones(len(costs)), np.arange(len(costs)), (height * width, len(costs))
    return (
        sparse.csr_matrix((one, (source, k)), size),
        sparse.csr_matrix((one, (goal, k)), size),
        costs,
    )


def distance(x, z, cost, slack=1e-6):
    """The least cost of transporting x to z but for `slack` per pixel; inf where none does."""
    x, z = (np.asarray(v, np.float64) for v in (x, z))
    rows, columns, costs = transport(x.shape, cost)
    x, z = x.ravel() / x.sum(), z.ravel() / z.sum()
    answer = linprog(
        costs,
        A_ub=sparse.vstack([columns, -columns]),
        b_ub=np.r_[z + slack, slack - z],
        A_eq=rows,
        b_eq=x,
    )
    return answer.fun if answer.status == 0 else np.inf


def maximum(x, y, radius, cost):
    """The largest <y, z> over the ball."""
    rows, columns, costs = transport(x.shape, cost)
    values = -(columns.T @ y.ravel())
    answer = linprog(values, A_ub=costs[None], b_ub=[radius], A_eq=rows, b_eq=x.ravel() / x.sum())
    return -answer.fun * x.sum()


def closest(x, w, radius, cost, upper=np.inf):
    """The Euclidean projection of w onto ball and bound: least squares with heavy constraints."""
    rows, columns, costs = (
        np.asarray(m.todense()) if sparse.issparse(m) else m for m in transport(x.shape, cost)
    )
    mass, n = x.sum(), x.size
    weight = 1e4
    free = np.eye(n) * np.isfinite(upper)
    bound = np.full(n, upper / mass if np.isfinite(upper) else 0)
    capped = columns * np.isfinite(upper)
    matrix = np.block(
        [
            [columns, np.zeros((n, n + 1))],
            [weight * rows, np.zeros((n, n + 1))],
            [weight * costs[None], np.array([[weight]]), np.zeros((1, n))],
            [weight * capped, np.zeros((n, 1)), weight * free],
        ]
    )
    target = np.r_[w.ravel() / mass, weight * x.ravel() / mass, weight * radius, weight * bound]
    plan, _ = nnls(matrix, target, maxiter=100_000)
    return (columns @ plan[: len(costs)]).reshape(x.shape) * mass
