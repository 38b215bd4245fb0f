"""DALE's Proposition 4.4 on a convex problem whose population answers are closed forms.

Inputs are standard normal, y = w0.x, the model is linear, the loss is squared and perturbations lie
in an l2 ball. With m = |w - w0| the nominal loss is m^2 and the robust one
m^2 + 2 eps |w| m sqrt(2 / pi) + eps^2 |w|^2. Both depend on m and |w| alone, so that the best model
lies on the way to w0: w = t w0. w0 interpolates, as eq. 9 asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import minimize, minimize_scalar

MEAN_ABS = float(np.sqrt(2 / np.pi))
"""E |z| of a standard normal z."""


class Population(NamedTuple):
    """The problem before samples are drawn."""

    w0: np.ndarray
    radius: float
    rho: float

    def nominal(self, w: np.ndarray) -> np.ndarray:
        """E (y - w.x)^2; `w` is `[..., D]`."""
        return np.sum((w - self.w0) ** 2, axis=-1)

    def robust(self, w: np.ndarray) -> np.ndarray:
        """E max (y - w.(x + delta))^2; `w` is `[..., D]`."""
        miss, size = np.sqrt(self.nominal(w)), np.linalg.norm(w, axis=-1)
        reach = self.radius * size
        return miss**2 + 2 * reach * miss * MEAN_ABS + reach**2

    def along(self, t: float) -> tuple[float, float]:
        """The robust loss of t w0 and its derivative in t, over |w0|^2."""
        e, a = self.radius, MEAN_ABS
        value = (1 - t) ** 2 + 2 * e * a * t * (1 - t) + e * e * t * t
        return value, -2 * (1 - t) + 2 * e * a * (1 - 2 * t) + 2 * e * e * t

    @property
    def unconstrained(self) -> float:
        """The t of the least robust loss."""
        e, a = self.radius, MEAN_ABS
        t = (1 - e * a) / (1 - 2 * e * a + e * e)
        return float(np.clip(t, 0, 1))

    @property
    def solution(self) -> tuple[float, float]:
        """P* and its multiplier nu*, where rho lies below |w0|^2."""
        size = float(self.w0 @ self.w0)
        least = 1 - np.sqrt(self.rho / size)
        t = max(self.unconstrained, least)
        value, slope = self.along(t)
        # Stationarity: slope + nu (-2 (1 - t)) = 0.
        nu = slope / (2 * (1 - t)) if t > self.unconstrained else 0.0
        return size * value, float(nu)

    @property
    def bound(self) -> float:
        """Eq. 9 with the interpolating w0."""
        return float(self.robust(self.w0)) / self.rho


class Sample(NamedTuple):
    """The problem as a learner sees it."""

    x: np.ndarray
    y: np.ndarray
    radius: float

    def nominal(self, w: np.ndarray) -> np.ndarray:
        """The mean of (y - w.x)^2; `w` is `[..., D]`."""
        return np.mean((self.y - w @ self.x.T) ** 2, axis=-1)

    def robust(self, w: np.ndarray) -> np.ndarray:
        """The mean of max (y - w.(x + delta))^2; `w` is `[..., D]`."""
        reach = self.radius * np.linalg.norm(w, axis=-1)[..., None]
        return np.mean((np.abs(self.y - w @ self.x.T) + reach) ** 2, axis=-1)


def drawn(problem: Population, count: int, seed: int) -> Sample:
    """`count` examples of the population."""
    x = np.random.default_rng(seed).normal(size=(count, problem.w0.size))
    return Sample(x, x @ problem.w0, problem.radius)


class Dual(NamedTuple):
    """The solution of the empirical dual (DI)."""

    value: float
    nu: float
    w: np.ndarray


def empirical_dual(sample: Sample, rho: float, start: np.ndarray) -> Dual:
    """max over nu >= 0 of min over w of the empirical Lagrangian, both convex."""

    def lagrangian(nu: float) -> tuple[float, np.ndarray]:
        found = minimize(
            lambda w: sample.robust(w) + nu * (sample.nominal(w) - rho),
            start, method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-12},
        )  # fmt: skip
        return float(found.fun), found.x

    best = minimize_scalar(
        lambda nu: -lagrangian(nu)[0], bounds=(0, 50), method="bounded", options={"xatol": 1e-6}
    )
    nu = max((0.0, float(best.x)), key=lambda nu: lagrangian(nu)[0])
    value, w = lagrangian(nu)
    return Dual(value, nu, w)


def deviations(problem: Population, sample: Sample, reach: float, side: int) -> tuple[float, float]:
    """zeta_R and zeta_N as they came out: the largest deviations over a square of models."""
    line = np.linspace(-reach, reach, side)
    grid = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    robust = np.abs(problem.robust(grid) - sample.robust(grid)).max()
    return float(robust), float(np.abs(problem.nominal(grid) - sample.nominal(grid)).max())


def equation_9(
    w0: np.ndarray, radius: float, rhos: Sequence[float], start: np.ndarray, examples: int
) -> list[dict[str, Any]]:
    """A row per rho: the multiplier, its bound, and the empirical one of one sample."""
    rows = []
    for rho in rhos:
        problem = Population(w0, radius, rho)
        value, nu = problem.solution
        found = empirical_dual(drawn(problem, examples, 0), rho, start)
        rows.append(
            {
                "method": f"rho {rho:g}",
                "P*": value,
                "nu*": nu,
                "bound of eq. 9": problem.bound,
                "empirical D*": found.value,
                "empirical nu": found.nu,
            }
        )
    return rows


def proposition_4_4(
    problem: Population, counts: Sequence[int], draws: int, *, reach: float = 2.0, side: int = 61
) -> list[dict[str, Any]]:
    """A row per number of examples, over `draws` samples: both claims and their bounds.

    The deviations are taken over models in a square of 2 `reach` that holds every solution; linear
    models are convex, so that alpha is 0.
    """
    best, nu = problem.solution
    rows = []
    for count in counts:
        gaps, limits, excesses, uniform = [], [], [], []
        for seed in range(draws):
            sample = drawn(problem, count, seed)
            found = empirical_dual(sample, problem.rho, problem.w0)
            robust, nominal = deviations(problem, sample, reach, side)
            gaps.append(abs(best - found.value))
            limits.append((1 + max(nu, found.nu)) * max(robust, nominal))
            excesses.append(float(problem.nominal(found.w)) - problem.rho)
            uniform.append(nominal)
        rows.append(
            {
                "method": f"{count} examples",
                "mean |P* - D*|": float(np.mean(gaps)),
                "its bound": float(np.mean(limits)),
                "mean excess of the nominal loss": float(np.mean(np.maximum(excesses, 0))),
                "zeta_N": float(np.mean(uniform)),
                "draws that keep both": f"{int(_kept(gaps, limits, excesses, uniform))}/{draws}",
            }
        )
    return rows


def _kept(gaps: list, limits: list, excesses: list, uniform: list) -> int:
    gap = np.asarray(gaps) <= np.asarray(limits)
    return np.sum(gap & (np.asarray(excesses) <= np.asarray(uniform) + 1e-6))
