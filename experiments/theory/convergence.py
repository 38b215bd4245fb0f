"""FOSC's Theorem 1 on a problem that meets its assumptions.

f(theta, x) = log(1 + exp(-y theta.x)) - kappa / 2 |x - x0|^2 over the cube |x - x0|_inf <= eps: the
logistic loss with the penalty by which Sinha et al. (2018) make the inner problem concave. While
|theta| <= R and |x| <= X, the constants of Assumptions 1 and 2 are L_tt = X^2 / 4,
L_tx = L_xt = 1 + R X / 4 and mu = kappa - R^2 / 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import minimize


def _sigmoid(z: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * z))


class Problem(NamedTuple):
    """Examples, the size of the cube and the weight of the penalty."""

    x: np.ndarray
    """`[N, D]`."""
    y: np.ndarray
    """`[N]` of -1 and 1."""
    radius: float
    kappa: float

    def value(self, theta: np.ndarray, x: np.ndarray) -> np.ndarray:
        """f of every example at its point, `[N]`."""
        away = np.sum((x - self.x) ** 2, axis=-1)
        return np.logaddexp(0, -self.y * (x @ theta)) - 0.5 * self.kappa * away

    def x_gradient(self, theta: np.ndarray, x: np.ndarray) -> np.ndarray:
        """In the points, `[N, D]`."""
        pull = -self.y * _sigmoid(-self.y * (x @ theta))
        return pull[:, None] * theta - self.kappa * (x - self.x)

    def theta_gradients(self, theta: np.ndarray, x: np.ndarray) -> np.ndarray:
        """In theta, of every example, `[N, D]`."""
        return (-self.y * _sigmoid(-self.y * (x @ theta)))[:, None] * x

    def fosc(self, theta: np.ndarray, x: np.ndarray) -> np.ndarray:
        """eps |g|_1 - <x - x0, g> of every example, `[N]` (eq. 4)."""
        g = self.x_gradient(theta, x)
        return self.radius * np.abs(g).sum(axis=-1) - np.sum((x - self.x) * g, axis=-1)

    def climbed(self, theta: np.ndarray, delta: float) -> np.ndarray:
        """Points whose FOSC is at most `delta`: each example stops once its own is."""
        x = self.x
        rate = 1 / (self.kappa + float(theta @ theta) / 4)
        for _ in range(10_000):
            moving = self.fosc(theta, x) > delta
            if not moving.any():
                return x
            z = x + rate * self.x_gradient(theta, x)
            z = np.clip(z, self.x - self.radius, self.x + self.radius)
            x = np.where(moving[:, None], z, x)
        raise FloatingPointError(f"the inner maximization did not come below FOSC {delta}")

    def loss(self, theta: np.ndarray) -> float:
        """L_S(theta), to 1e-12."""
        return float(np.mean(self.value(theta, self.climbed(theta, EXACT))))

    def gradient(self, theta: np.ndarray) -> np.ndarray:
        """Of L_S: that of the worst points, by Danskin's theorem."""
        return self.theta_gradients(theta, self.climbed(theta, EXACT)).mean(axis=0)


EXACT = 1e-12
"""FOSC of a point that counts as the maximizer."""


class Constants(NamedTuple):
    """Of the theorem, valid for |theta| up to the radius they were made for."""

    tt: float
    tx: float
    mu: float

    @property
    def smoothness(self) -> float:
        """L of L_S."""
        return self.tx**2 / self.mu + self.tt


def constants(problem: Problem, largest: float) -> Constants:
    """For |theta| <= `largest`.

    Raises:
      ValueError: a kappa too small for strong concavity there.
    """
    mu = problem.kappa - largest**2 / 4
    if mu <= 0:
        raise ValueError(f"kappa={problem.kappa} leaves mu={mu:g}; take more than {largest**2 / 4}")
    far = float((np.linalg.norm(problem.x, axis=-1)).max())
    far += problem.radius * problem.x.shape[-1] ** 0.5
    return Constants(far**2 / 4, 1 + largest * far / 4, mu)


def made(seed: int = 0, *, count: int = 40, radius: float = 0.3, kappa: float = 3.0) -> Problem:
    """Two Gaussian classes in the plane, that overlap."""
    rng = np.random.default_rng(seed)
    y = np.where(np.arange(count) % 2 == 0, -1.0, 1.0)
    return Problem(0.5 * y[:, None] + 0.8 * rng.normal(size=(count, 2)), y, radius, kappa)


class Walk(NamedTuple):
    """What a run of Algorithm 1 went through."""

    squared: float
    """The mean of |grad L_S|^2 over the steps."""
    largest: float
    """The largest |theta|."""
    error: float
    """The largest |g^ - g| of Lemma 2: gradients at approximate and at exact worst points."""


def descend(
    problem: Problem, *, delta: float, steps: int, rate: float, batch: int, seed: int
) -> Walk:
    """SGD at points of FOSC at most `delta`, from theta = 0."""
    rng = np.random.default_rng(seed)
    theta = np.zeros(problem.x.shape[-1])
    squared, largest, error = [], 0.0, 0.0
    for _ in range(steps):
        exact = problem.theta_gradients(theta, problem.climbed(theta, EXACT))
        rough = problem.theta_gradients(theta, problem.climbed(theta, delta))
        chosen = rng.integers(0, len(problem.y), batch)
        squared.append(float(np.sum(exact.mean(axis=0) ** 2)))
        error = max(error, float(np.linalg.norm((rough - exact)[chosen].mean(axis=0))))
        theta = theta - rate * rough[chosen].mean(axis=0)
        largest = max(largest, float(np.linalg.norm(theta)))
    return Walk(float(np.mean(squared)), largest, error)


def theorem_1(
    problem: Problem,
    deltas: Sequence[float],
    horizons: Sequence[int],
    seeds: Sequence[int],
    *,
    batch: int = 4,
    largest: float = 2.0,
) -> list[dict[str, Any]]:
    """A row per delta and number of steps T: both sides of the theorem, and of Lemma 2.

    sigma^2 is the largest variance of a batch's gradient over |theta| <= `largest`, on a grid.

    Raises:
      ValueError: fewer steps than the theorem asks for, or a run that left |theta| <= `largest`.
    """
    known = constants(problem, largest)
    best = minimize(problem.loss, np.zeros(problem.x.shape[-1]), jac=problem.gradient).fun
    fall = problem.loss(np.zeros(problem.x.shape[-1])) - float(best)
    variance = _variance(problem, largest) / batch
    least = fall * known.smoothness / variance
    rows = []
    for steps in horizons:
        if steps < least:
            raise ValueError(f"the theorem asks for at least {np.ceil(least):.0f} steps")
        rate = (fall / (steps * known.smoothness * variance)) ** 0.5
        for delta in deltas:
            runs = [
                descend(problem, delta=delta, steps=steps, rate=rate, batch=batch, seed=seed)
                for seed in seeds
            ]
            if max(run.largest for run in runs) > largest:
                raise ValueError(f"a run left |theta| <= {largest}, for which the constants hold")
            noise = 4 * (variance * known.smoothness * fall / steps) ** 0.5
            rows.append(
                {
                    "method": f"T {steps}, delta {delta:g}",
                    "mean |grad L|^2": float(np.mean([run.squared for run in runs])),
                    "its bound": noise + 2 * known.tx**2 * delta / known.mu,
                    "of which delta's part": 2 * known.tx**2 * delta / known.mu,
                    "largest gradient error": max(run.error for run in runs),
                    "bound of Lemma 2": known.tx * (delta / known.mu) ** 0.5,
                }
            )
    return rows


def _variance(problem: Problem, largest: float, side: int = 17) -> float:
    """The largest variance of one example's gradient at the worst points."""
    line = np.linspace(-largest, largest, side)
    grid = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    found = []
    for theta in grid[np.linalg.norm(grid, axis=-1) <= largest]:
        each = problem.theta_gradients(theta, problem.climbed(theta, EXACT))
        found.append(np.sum((each - each.mean(axis=0)) ** 2, axis=-1).mean())
    return float(max(found))
