"""The papers' theorems on problems whose answers are known.

    python -m experiments.theory
    python -m experiments.theory --part trades
    python -m experiments.theory --part dale --draws 100

dale: the lifted problem of Proposition 3.1 closing on the robust one, the densities of Proposition
3.2, eq. 9's bound of the multiplier and the duality gap of Proposition 4.4. trades: errors of the
counterexample (Table 1, Figure 2), psi transforms from closed forms and from the losses (Table 2),
and Theorem 3.2's example, which makes the bound of Theorem 3.1 tight. fosc: both sides of Theorem 1
along runs of stochastic gradient descent, and of its Lemma 2. Everything is float64 on the host; no
network is trained.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxrobust import figures

from ..common.cli import command_line
from ..common.tables import publish, told
from . import calibration, constrained, convergence, lifted, plots, tradeoff
from .config import Config, check

THETAS = np.linspace(0.05, 0.95, 19)
DELTAS = (0.1, 0.01, 0.001)
SPREADS = (1, 2, 4, 16, 64, 225)
W0 = np.array([1.0, -0.5])
RADIUS = 1.0
RHOS = (0.01, 0.03, 0.1, 0.2, 0.3, 0.5)
COUNTS = (50, 200, 800)
TOLERANCES = (0.3, 0.1, 0.01, 0.001)
HORIZONS = (100, 400, 1600)


class Sheet(NamedTuple):
    """A table and where it comes from."""

    title: str
    source: str
    rows: list[dict[str, Any]]


Made = tuple[dict[str, Sheet], dict[str, figures.Figure]]


def dale(config: Config) -> Made:
    """Propositions 3.1, 3.2 and 4.4."""
    problem = lifted.regression()
    about = f"least squares, linear model, {len(problem.y)} points whose inputs move in a square"
    found = lifted.proposition_3_1(problem, SPREADS)
    level = constrained.Population(W0, RADIUS, 0.1)
    bounds = constrained.equation_9(W0, RADIUS, RHOS, W0, 200)
    gaps = constrained.proposition_4_4(level, COUNTS, config.draws)
    gaussian = f"least squares, Gaussian inputs, w0 {W0.tolist()}, l2 radius {RADIUS:g}"
    moves = np.linspace(-1, 1, 401)
    losses = (0.3 - moves) ** 2
    drawn = {f"{s:g}": lifted.concentrated(losses, s) for s in (1, 2, 4, 16)}
    sheets = {
        "lifted": Sheet(about, "DALE, Proposition 3.1", found),
        "multipliers": Sheet(f"{gaussian}; sample of 200", "DALE, eq. 9", bounds),
        "gaps": Sheet(
            f"{gaussian}, rho {level.rho:g}, {config.draws} draws", "DALE, Proposition 4.4", gaps
        ),
    }
    return sheets, {
        "dale_densities": plots.densities(drawn, losses, moves),
        "dale_multipliers": plots.multipliers(bounds, gaps),
    }


def trades(config: Config) -> Made:
    """Tables 1 and 2, and Theorem 3.2."""
    del config
    grid = np.linspace(0, 1, 101)
    sheets = {
        "counterexample": Sheet("eq. 2 on 10,000 cells", "TRADES, Table 1", tradeoff.table_1()),
        "psi": Sheet("psi on 101 points", "TRADES, Table 2", calibration.table_2(grid)),
        "tightness": Sheet(
            f"theta from {THETAS[0]:g} to {THETAS[-1]:g}",
            "TRADES, Theorems 3.1 and 3.2",
            tradeoff.theorem_3_2(THETAS.tolist(), DELTAS),
        ),
    }
    return sheets, {
        "trades_figure2": plots.counterexample(),
        "trades_tightness": plots.tightness(THETAS, DELTAS[:2]),
    }


def fosc(config: Config) -> Made:
    """Theorem 1."""
    problem = convergence.made()
    rows = convergence.theorem_1(problem, TOLERANCES, HORIZONS, config.seeds)
    about = (
        f"penalized logistic loss, {len(problem.y)} points in the plane, linf eps "
        f"{problem.radius:g}, kappa {problem.kappa:g}, seeds {' '.join(map(str, config.seeds))}"
    )
    sheets = {"stationarity": Sheet(about, "FOSC, Theorem 1", rows)}
    return sheets, {"fosc_stationarity": plots.stationarity(rows)}


MAKERS: Mapping[str, Callable[[Config], Made]] = {"dale": dale, "trades": trades, "fosc": fosc}


def main(config: Config) -> dict[str, list[dict[str, Any]]]:
    """Runs the parts; returns the rows of each table by its name."""
    check(config)
    tables = {}
    for part in config.part:
        began = time.perf_counter()
        sheets, drawn = MAKERS[part](config)
        written: list[Path] = []
        for name, sheet in sheets.items():
            tables[name] = sheet.rows
            about = {"script": "theory", "dataset": part, "preset": "exact", "source": sheet.source}
            publish(config.out / name, f"{sheet.source}: {sheet.title}", sheet.rows, about=about)
            written.append(config.out / f"{name}.md")
        written += [figures.save_figure(f, config.out / f"{n}.png") for n, f in drawn.items()]
        told(written, began)
    return tables


if __name__ == "__main__":
    command_line(main, Config, __doc__)
