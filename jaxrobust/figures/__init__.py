"""Every plot. Each function returns a Matplotlib `Figure`; `save_figure` writes it.

Made with Matplotlib's objects alone: no display, no global state, safe in threads.
"""

from jaxrobust import checks

with checks.extra("experiments"):
    from matplotlib.figure import Figure

from jaxrobust.figures.lines import Series, learning_curves, series_lines
from jaxrobust.figures.perturbations import perturbation_pca, principal_components
from jaxrobust.figures.pictures import examples_grid, magnified, picture_grid
from jaxrobust.figures.robustness import robustness_curve
from jaxrobust.figures.save_figure import save_figure
from jaxrobust.figures.trade_off import Runs, trade_off
from jaxrobust.figures.training_curves import NAMES, training_curves

__all__ = [
    "NAMES",
    "Figure",
    "Runs",
    "Series",
    "examples_grid",
    "learning_curves",
    "magnified",
    "perturbation_pca",
    "picture_grid",
    "principal_components",
    "robustness_curve",
    "save_figure",
    "series_lines",
    "trade_off",
    "training_curves",
]
