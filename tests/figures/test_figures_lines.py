"""Lines hold the points, errors and names that they were given."""

import numpy as np
import pytest

from jaxrobust import figures


def test_series_lines_show_points_errors_and_level():
    series = {
        "a": figures.Series([1, 10], [40.0, 60.0], [2.0, 3.0]),
        "b": figures.Series([2, 4], [30.0, 35.0]),
    }
    figure = figures.series_lines(series, x="seconds", level=50.0, logarithmic=True)
    (panel,) = figure.axes
    assert (panel.get_xlabel(), panel.get_xscale()) == ("seconds", "log")
    drawn, plain = panel.containers
    np.testing.assert_allclose(drawn[0].get_xydata(), [[1, 40], [10, 60]])
    np.testing.assert_allclose(
        [bar[:, 1] for bar in drawn[2][0].get_segments()], [[38, 42], [57, 63]]
    )
    assert not plain.has_yerr
    assert [50.0, 50.0] in [list(line.get_ydata()) for line in panel.lines]
    with pytest.raises(ValueError, match="series is empty"):
        figures.series_lines({}, x="seconds")


def test_learning_curves_have_a_panel_for_each_title_and_a_band_of_the_errors():
    lines = {"robust": figures.Series([1, 2, 3], [10.0, 30.0, 20.0], [1.0, 2.0, 4.0])}
    panels = {str(k): lines for k in range(5)}
    figure = figures.learning_curves(panels, marks=[2])
    shown = [panel for panel in figure.axes if panel.get_visible()]
    assert [panel.get_title() for panel in shown] == list(panels)
    assert len(figure.axes) == 8
    for panel in shown:
        line, mark = panel.lines
        np.testing.assert_array_equal(line.get_xydata(), [[1, 10], [2, 30], [3, 20]])
        assert list(mark.get_xdata()) == [2, 2]
        band = panel.collections[0].get_paths()[0].vertices
        assert (band[:, 1].min(), band[:, 1].max()) == (9, 32)
    with pytest.raises(ValueError, match="panels is empty"):
        figures.learning_curves({})
    with pytest.raises(ValueError, match=r"panels\['a'\] is empty"):
        figures.learning_curves({"a": {}})


@pytest.mark.parametrize(
    "line",
    [
        figures.Series([1, 2, 3], [1.0, 2.0]),
        # which NumPy would spread over all points
        figures.Series([1, 2, 3], [1.0, 2.0, 3.0], [0.5]),
    ],
)
def test_a_line_has_as_many_numbers_of_each_kind(line):
    with pytest.raises(ValueError, match=r"line 'a' needs as many y, .* as x, got \[3, "):
        figures.series_lines({"a": line}, x="seconds")
    with pytest.raises(ValueError, match=r"line 'a' needs as many y, .* as x, got \[3, "):
        figures.learning_curves({"panel": {"a": line}})
