"""The study's figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from .calibration import SURROGATES
from .lifted import Density
from .tradeoff import stripes, toy


def counterexample(parts: int = 10) -> Figure:
    """TRADES' Figure 2: the conditional of eq. 2, with the two classifiers of Table 1."""
    figure = Figure(figsize=(6.2, 2.6), layout="constrained")
    panel = figure.subplots()
    eta = (1 + stripes(parts, parts)) / 2
    edges = np.linspace(0, 1, parts + 1)
    panel.stairs(eta, edges, label="P(y = 1 | x) = Bayes optimal classifier", linewidth=1.8)
    panel.plot([0, 1], [1, 1], "--", color="tab:orange", label="all-one classifier", linewidth=1.4)
    panel.set(xlabel="x", ylabel="probability", ylim=(-0.1, 1.65), yticks=(0, 0.5, 1))
    panel.annotate("", (edges[2], 0.5), (edges[3], 0.5), arrowprops={"arrowstyle": "<->"})
    panel.text(edges[2] + 0.5 / parts, 0.55, r"$\epsilon$", ha="center")
    panel.legend(loc="upper center", ncols=2, fontsize=9)
    return figure


def tightness(thetas: np.ndarray, deltas: Sequence[float]) -> Figure:
    """Theorem 3.2: excess surrogate risk of its example over psi, a panel per loss.

    theta is the robust error less the least natural one.
    """
    figure = Figure(figsize=(12.5, 3.2), layout="constrained")
    panels = figure.subplots(1, len(SURROGATES), sharex=True, sharey=True)
    for panel, (name, loss) in zip(panels, SURROGATES.items(), strict=True):
        for delta in deltas:
            excess = [toy(loss, theta, delta).excess for theta in thetas]
            panel.plot(thetas, excess, label=f"excess, delta {delta:g}")
        panel.plot(thetas, loss.psi(thetas), "k--", linewidth=1.4, label=r"$\psi(\theta)$")
        panel.set(title=name, xlabel=r"$\theta$")
        panel.grid(alpha=0.3)
    panels[0].set_ylabel(r"excess of the $\phi$-risk")
    panels[0].legend(fontsize=8)
    return figure


def densities(found: Mapping[str, Density], losses: np.ndarray, moves: np.ndarray) -> Figure:
    """Proposition 3.2: the best densities of bounded norm over an interval, below the loss."""
    figure = Figure(figsize=(8.4, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(moves, losses, color="tab:red")
    left.set(xlabel=r"perturbation $\delta$", ylabel=r"loss $\ell(\delta)$", ylim=(0, None))
    width = moves[1] - moves[0]
    for name, density in found.items():
        right.plot(moves, density.shares / width, label=name)
    right.set(xlabel=r"perturbation $\delta$", ylabel=r"density $\lambda(\delta)$")
    right.legend(title=r"$|\Delta| \, \|\lambda\|^2$", fontsize=9)
    for panel in (left, right):
        panel.grid(alpha=0.3)
    return figure


def multipliers(rows: Sequence[Mapping[str, Any]], counts: Sequence[Mapping[str, Any]]) -> Figure:
    """Eq. 9 over rho, and the gap of Proposition 4.4 over the number of examples."""
    figure = Figure(figsize=(8.8, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    rho = [float(row["method"].split()[1]) for row in rows]
    lines = {
        "bound of eq. 9": ("k--", "bound of eq. 9"),
        "nu*": ("o-", r"$\nu^*$"),
        "empirical nu": ("s:", r"empirical $\hat\nu^*$"),
    }
    for name, (style, label) in lines.items():
        values = np.asarray([row[name] for row in rows])
        # a multiplier of 0 has no place on a logarithmic axis
        left.plot(rho, np.where(values > 1e-6, values, np.nan), style, label=label, markersize=4)
    left.set(xlabel=r"level $\rho$", ylabel=r"multiplier $\nu$", xscale="log", yscale="log")
    examples = [float(row["method"].split()[0]) for row in counts]
    gaps = {"its bound": ("k--", "its bound"), "mean |P* - D*|": ("o-", r"mean $|P^* - \hat D^*|$")}
    for name, (style, label) in gaps.items():
        right.plot(examples, [row[name] for row in counts], style, label=label, markersize=4)
    right.set(xlabel="examples", ylabel="duality gap", xscale="log", yscale="log")
    right.set_xticks(examples, [f"{n:g}" for n in examples])
    right.minorticks_off()
    for panel in (left, right):
        panel.grid(alpha=0.3)
        panel.legend(fontsize=9)
    return figure


def stationarity(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """FOSC's Theorem 1: squared gradients and their bound over T, a color per delta."""
    figure = Figure(figsize=(6.4, 3.9), layout="constrained")
    panel = figure.subplots()
    lines: dict[str, list[tuple[int, float, float]]] = {}
    for row in rows:
        steps, delta = (part.split()[1] for part in row["method"].split(", "))
        point = (int(steps), row["mean |grad L|^2"], row["its bound"])
        lines.setdefault(delta, []).append(point)
    for delta, points in lines.items():
        x, found, bound = np.asarray(points).T
        (line,) = panel.plot(x, found, "o-", label=f"delta {delta}", markersize=4)
        panel.plot(x, bound, "--", color=line.get_color())
    panel.plot([], [], "k--", label="bound")
    panel.set(xlabel="steps T", ylabel=r"mean $\|\nabla L_S\|^2$", xscale="log", yscale="log")
    panel.set_xticks(x, [f"{n:g}" for n in x])
    panel.minorticks_off()
    panel.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=9)
    return figure
