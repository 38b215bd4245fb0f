"""Curves of robust accuracy."""

import numpy as np
import pytest

from jaxrobust import figures
from jaxrobust.evaluation import Curve


def test_robustness_curve_starts_at_the_clean_accuracy():
    clean = np.asarray([1, 1, 1, 0], bool)
    robust = np.asarray([[1, 1, 0, 0], [0, 0, 0, 0]], bool)
    curves = {"DALE": Curve(np.asarray([0.1, 0.2]), clean, robust)}
    curves["attacked at 0"] = Curve(np.asarray([0.0, 0.2]), clean, robust)
    (panel,) = figures.robustness_curve(curves).axes
    np.testing.assert_allclose(panel.lines[0].get_xydata(), [[0, 75], [0.1, 50], [0.2, 0]])
    np.testing.assert_allclose(panel.lines[1].get_xydata(), [[0, 50], [0.2, 0]])
    band = panel.collections[0].get_paths()[0].vertices
    assert band[:, 1].max() == pytest.approx(75 + 100 * np.sqrt(0.75 * 0.25 / 4))
    with pytest.raises(ValueError, match="curves is empty"):
        figures.robustness_curve({})
