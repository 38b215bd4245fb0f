"""Surrogate losses and their psi transforms (TRADES, section 2.5 and Table 2).

For a loss phi of the margin, C_eta(a) = eta phi(a) + (1 - eta) phi(-a) has the least value H(eta)
over all a, and H-(eta) over those whose sign contradicts eta. psi is the largest convex function
below H- - H at eta = (1 + theta) / 2: it bounds the excess of the 0-1 risk by that of phi.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

Function = Callable[[np.ndarray], np.ndarray]

REACH = 40.0
"""Scores from -REACH to REACH stand for all."""
CANDIDATES = 40_001
"""Scores tried in a numerical transform; even, so that 0 is one of them."""


class Surrogate(NamedTuple):
    """A loss of the margin f(x) y, y in {-1, 1}, with what is known of it."""

    phi: Function
    psi: Function
    """In closed form, on [0, 1]."""
    optimal: Function
    """H(eta) in closed form."""


def _entropy(eta: np.ndarray) -> np.ndarray:
    """Of a coin, in bits; 0 log 0 is 0."""
    parts = np.stack([eta, 1 - eta])
    return -np.sum(parts * np.log2(np.where(parts > 0, parts, 1)), axis=0)


def _log2(a: np.ndarray) -> np.ndarray:
    return np.logaddexp(0, -a) / np.log(2)


SURROGATES: Mapping[str, Surrogate] = {
    "hinge": Surrogate(
        lambda a: np.maximum(1 - a, 0), lambda t: t, lambda e: 2 * np.minimum(e, 1 - e)
    ),
    "sigmoid": Surrogate(lambda a: 1 - np.tanh(a), lambda t: t, lambda e: 2 * np.minimum(e, 1 - e)),
    "exponential": Surrogate(
        lambda a: np.exp(-a),
        lambda t: 1 - np.sqrt(1 - t * t),
        lambda e: 2 * np.sqrt(e * (1 - e)),
    ),
    "logistic": Surrogate(_log2, lambda t: 1 - _entropy((1 + t) / 2), _entropy),
    "squared hinge": Surrogate(
        lambda a: np.maximum(1 - a, 0) ** 2, lambda t: t * t, lambda e: 4 * e * (1 - e)
    ),
}
"""The four of Table 2, and the squared hinge (Bartlett, Jordan & McAuliffe 2006, section 2.3)."""


def risk(phi: Function, eta: np.ndarray, score: np.ndarray) -> np.ndarray:
    """C_eta(score), where P(y = 1) = eta."""
    return eta * phi(score) + (1 - eta) * phi(-score)


def optimal_risk(phi: Function, eta: np.ndarray, *, wrong: bool = False) -> np.ndarray:
    """H(eta) by trying scores; with `wrong`, H-(eta), over those that contradict eta.

    Args:
      eta: `[N]`.
    """
    scores = np.linspace(-REACH, REACH, CANDIDATES)
    found = []
    for one in np.asarray(eta, np.float64):
        kept = scores[scores * (2 * one - 1) <= 0] if wrong else scores
        found.append(risk(phi, one, kept).min())
    return np.asarray(found)


def convex_hull(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The largest convex function below the points (x, y), x increasing, at each x."""
    kept: list[int] = []
    for i in range(len(x)):
        while len(kept) > 1:
            a, b = kept[-2:]
            above = (y[b] - y[a]) * (x[i] - x[a]) >= (y[i] - y[a]) * (x[b] - x[a])
            if not above:
                break
            kept.pop()
        kept.append(i)
    return np.interp(x, x[kept], y[kept])


def psi_transform(phi: Function, theta: np.ndarray) -> np.ndarray:
    """psi at `theta` `[N]`, increasing in [0, 1], from the loss alone."""
    eta = (1 + theta) / 2
    return convex_hull(theta, optimal_risk(phi, eta, wrong=True) - optimal_risk(phi, eta))


def table_2(theta: np.ndarray) -> list[dict[str, Any]]:
    """A row per loss: its psi at .25, .5 and .75, and how far the numerical one is from it."""
    rows = []
    for name, loss in SURROGATES.items():
        error = np.abs(psi_transform(loss.phi, theta) - loss.psi(theta)).max()
        shown = {f"psi({t:g})": float(loss.psi(np.float64(t))) for t in (0.25, 0.5, 0.75)}
        rows.append({"method": name, **shown, "largest error of the numerical psi": float(error)})
    return rows
