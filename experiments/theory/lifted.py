"""DALE's Propositions 3.1 and 3.2: the worst perturbation as a distribution of perturbations.

The robust loss max_delta l(delta) is the supremum of E_lambda l over densities on the ball. Among
densities of bounded L2 norm the best is (l - mu)_+ / gamma: as the bound grows it closes on the
maximum; at the least possible one it is uniform, which trains on random noise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import minimize

HALVINGS = 60


class Density(NamedTuple):
    """Probabilities of cells of equal volume, the unit of gamma here."""

    shares: np.ndarray
    """`[..., M]`, of sum 1."""
    mu: np.ndarray
    gamma: np.ndarray


def truncated(losses: np.ndarray, gamma: np.ndarray | float) -> Density:
    """(l - mu)_+ / gamma with the mu for which it is a density (eqs. 5 and 6), exactly.

    Args:
      losses: `[..., M]`, of the cells.
      gamma: above 0, `[...]` or a number: the sum of (l - mu)_+ over the cells.
    """
    gamma = np.broadcast_to(np.asarray(gamma, np.float64), losses.shape[:-1])
    order = -np.sort(-losses, axis=-1)
    levels = (np.cumsum(order, axis=-1) - gamma[..., None]) / np.arange(1, order.shape[-1] + 1)
    # The cells above the level are the first ones, as many as lie above their own.
    last = np.sum(order > levels, axis=-1, keepdims=True) - 1
    mu = np.take_along_axis(levels, last, axis=-1)
    return Density(np.maximum(losses - mu, 0) / gamma[..., None], mu[..., 0], gamma)


def concentrated(losses: np.ndarray, spread: float) -> Density:
    """The density of the largest E l among those of |ball| ||lambda||^2 at most `spread`.

    Args:
      losses: `[..., M]`.
      spread: 1 is uniform, M puts everything on one cell.
    """
    count = losses.shape[-1]
    scale = np.ptp(losses, axis=-1) + 1e-300
    low, high = np.log(1e-9 * scale), np.log(1e9 * scale * count)
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        found = truncated(losses, np.exp(middle))
        over = count * np.sum(found.shares**2, axis=-1) > spread
        low, high = np.where(over, middle, low), np.where(over, high, middle)
    return truncated(losses, np.exp(high))


def expected(losses: np.ndarray, density: Density) -> np.ndarray:
    """E_lambda l, `[...]`."""
    return np.sum(losses * density.shares, axis=-1)


class Regression(NamedTuple):
    """Least squares with a linear model whose two inputs move in a square: convex in the model."""

    x: np.ndarray
    """`[N, 2]`."""
    y: np.ndarray
    """`[N]`."""
    radius: float
    side: int
    """Points along a side of the square, its corners among them."""

    def losses(self, w: np.ndarray) -> np.ndarray:
        """(y - w.(x + delta))^2, `[N, side^2]` over equally likely delta."""
        line = np.linspace(-self.radius, self.radius, self.side)
        moves = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2) @ w
        return ((self.y - self.x @ w)[:, None] - moves[None]) ** 2

    def robust(self, w: np.ndarray) -> float:
        """The mean of max (y - w.(x + delta))^2, in closed form."""
        return float(np.mean((np.abs(self.y - self.x @ w) + self.radius * np.abs(w).sum()) ** 2))

    def lifted(self, w: np.ndarray, spread: float) -> float:
        """The mean of E l under the best density of that spread."""
        losses = self.losses(w)
        return float(np.mean(expected(losses, concentrated(losses, spread))))


def regression(
    seed: int = 0, *, count: int = 20, radius: float = 0.3, side: int = 15
) -> Regression:
    """Gaussian inputs, y = x_0 - x_1 / 2 and noise of deviation .1."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 2))
    return Regression(x, x @ [1.0, -0.5] + 0.1 * rng.normal(size=count), radius, side)


def least(objective: Callable[[np.ndarray], float], start: np.ndarray) -> tuple[np.ndarray, float]:
    """Minimizer and minimum of a convex function of few variables."""
    tight = {"xatol": 1e-7, "fatol": 1e-11}
    found = minimize(objective, start, method="Nelder-Mead", options=tight)
    return found.x, float(found.fun)


def proposition_3_1(problem: Regression, spreads: Sequence[float]) -> list[dict[str, Any]]:
    """A row per spread: the least lifted loss, and the robust loss of the model that attains it."""
    start = np.linalg.lstsq(problem.x, problem.y, rcond=None)[0]
    rows = []
    for spread in spreads:
        w, value = least(lambda w, s=spread: problem.lifted(w, s), start)
        own = {"least lifted loss": value, "robust loss of its model": problem.robust(w)}
        rows.append({"method": f"|ball| ||lambda||^2 = {spread:g}", **own})
    w, value = least(problem.robust, start)
    own = {"least lifted loss": value, "robust loss of its model": value}
    return [*rows, {"method": "the maximum (P-RO)", **own}]
