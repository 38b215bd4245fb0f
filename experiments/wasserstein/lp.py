"""The transport distance between two images as a linear program: slow, and exact."""

from __future__ import annotations

import numpy as np
import scipy.sparse
from scipy.optimize import linprog


def exact_distance(x: np.ndarray, z: np.ndarray, cost: np.ndarray) -> float:
    """The least cost per unit of mass of moving `x` `[H, W, C]` to `z` within a window.

    Minimizes <P, cost> over plans P >= 0 with rows x and columns z, both scaled to mass 1 in
    float64, by HiGHS; `cost` `[k, k]` is that of a move by each offset from the center, and
    channels exchange nothing. Rounded images are rarely a plan apart to the last bit: mass that
    finds no way within the window may be left over at a price above that of any chain of moves,
    which a true plan never pays.

    Raises:
      ValueError: an empty image, or a solver that fails.
    """
    x, z = (np.asarray(image, np.float64) for image in (x, z))
    if not (x.sum() > 0 and z.sum() > 0):
        raise ValueError("transport needs images with mass, got one that is empty")
    x, z = x / x.sum(), z / z.sum()
    cells = np.arange(x.size).reshape(x.shape)
    reach = np.asarray(cost.shape) // 2
    sources, sinks, fees = [], [], []
    for row, column in np.ndindex(*cost.shape):
        down, right = row - reach[0], column - reach[1]
        here, there = (
            cells[
                max(0, -a) : x.shape[0] - max(0, a),
                max(0, -b) : x.shape[1] - max(0, b),
            ].ravel()
            for a, b in ((down, right), (-down, -right))
        )
        carries = x.ravel()[here] > 0
        sources.append(here[carries])
        sinks.append(there[carries])
        fees.append(np.full(carries.sum(), cost[row, column]))
    sources, sinks, fees = (np.concatenate(part) for part in (sources, sinks, fees))
    arcs, size = len(fees), x.size
    ones = np.ones(arcs)
    leave = scipy.sparse.csr_array((ones, (sources, np.arange(arcs))), (size, arcs))
    arrive = scipy.sparse.csr_array((ones, (sinks, np.arange(arcs))), (size, arcs))
    idle = scipy.sparse.csr_array((size, size))
    one = scipy.sparse.eye_array(size)
    program = scipy.sparse.block_array([[leave, idle, idle], [arrive, one, -one]], format="csr")
    price = cost.max() * sum(x.shape[:2])
    solved = linprog(
        np.concatenate([fees, np.full(2 * size, price)]),
        A_eq=program,
        b_eq=np.concatenate([x.ravel(), z.ravel()]),
        method="highs",
    )
    if not solved.success:
        raise ValueError(f"the transport program was not solved: {solved.message}")
    return float(solved.fun)
