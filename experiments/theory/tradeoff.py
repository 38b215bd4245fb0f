"""TRADES' counterexample and its tight toy (section 2.4, Theorems 3.1 and 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .calibration import SURROGATES, Surrogate, risk

FAR = 40.0
"""f(x') f(x) / lambda in the toy: there every loss is at most 1 - tanh(40), which rounds to 0."""


class Errors(NamedTuple):
    """Shares of a classifier's errors: of points, of balls, and of balls around right points."""

    natural: float
    boundary: float
    robust: float


def stripes(cells: int, parts: int) -> np.ndarray:
    """Labels of eq. 2 at the centers of `cells` equal cells of [0, 1].

    Args:
      parts: 1 / epsilon, an even number: stripes as wide as the radius, -1 and 1 in turn.
    """
    return np.where(np.arange(cells) * parts // cells % 2 == 0, -1, 1)


def errors(predicted: np.ndarray, labels: np.ndarray, reach: int) -> Errors:
    """Errors of the predictions (-1 or 1, a cell each) of points that move by `reach` cells."""
    padded = np.pad(predicted, reach, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1)
    wrong = predicted != labels
    broken = (windows != labels[:, None]).any(axis=1)
    return Errors(float(wrong.mean()), float((broken & ~wrong).mean()), float(broken.mean()))


def table_1(cells: int = 10_000, parts: int = 10) -> list[dict[str, Any]]:
    """Table 1: errors of the Bayes classifier and of the constant one, by counting cells."""
    labels = stripes(cells, parts)
    rows = []
    for name, predicted in (("Bayes optimal", labels), ("all-one", np.ones_like(labels))):
        found = errors(predicted, labels, cells // parts)
        rows.append({"method": name, **found._asdict()})
    return rows


class Toy(NamedTuple):
    """Both sides of the theorems for a constant score -delta, with P(y = 1) = (1 + theta) / 2."""

    gap: float
    """R_rob(f) - R*_nat: theta."""
    regularizer: float
    """E max phi(f(x') f(x) / lambda)."""
    lower: float
    """psi(gap - regularizer), which Theorem 3.2 puts below the excess."""
    excess: float
    """R_phi(f) - R*_phi."""
    bound: float
    """Theorem 3.1's: psi^-1(excess) + regularizer, above the gap."""


def toy(loss: Surrogate, theta: float, delta: float) -> Toy:
    """Theorem 3.2's example. Two points of one conditional do, as every psi here is H- - H.

    The score is -delta at every point, against the likelier label, so that no ball holds a change
    of sign; lambda = delta^2 / `FAR`.

    Args:
      theta: in (0, 1). delta: above 0; the smaller, the closer the two sides.
    """
    eta = np.float64((1 + theta) / 2)
    # Wrong where y = 1, near and far; the Bayes classifier is wrong where y = -1.
    gap = float(eta - (1 - eta))
    regularizer = float(loss.phi(np.float64(FAR)))
    excess = float(risk(loss.phi, eta, np.float64(-delta)) - loss.optimal(eta))
    lower = float(loss.psi(np.float64(max(gap - regularizer, 0.0))))
    return Toy(gap, regularizer, lower, excess, inverse(loss, excess) + regularizer)


def inverse(loss: Surrogate, value: float) -> float:
    """The theta in [0, 1] with psi(theta) = value; 1 where psi stays below it."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        if float(loss.psi(np.float64(middle))) < value:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)


def theorem_3_2(thetas: Sequence[float], deltas: Sequence[float]) -> list[dict[str, Any]]:
    """A row per loss and delta: the largest of the slacks of both theorems over the thetas."""
    rows = []
    for name, loss in SURROGATES.items():
        for delta in deltas:
            found = [toy(loss, theta, delta) for theta in thetas]
            rows.append(
                {
                    "method": f"{name}, delta {delta:g}",
                    "largest excess - psi": max(t.excess - t.lower for t in found),
                    "least excess - psi": min(t.excess - t.lower for t in found),
                    "largest bound - gap": max(t.bound - t.gap for t in found),
                    "least bound - gap": min(t.bound - t.gap for t in found),
                }
            )
    return rows
