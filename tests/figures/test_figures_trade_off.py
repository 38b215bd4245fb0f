"""Points in the plane of two accuracies."""

import numpy as np
import pytest

from jaxrobust import figures


def test_trade_off_draws_means_with_their_spread_and_joins_families() -> None:
    points = {
        "1": (np.asarray([90.0, 92.0]), np.asarray([50.0, 50.0])),
        "6": (np.asarray([80.0, 84.0]), np.asarray([60.0, 62.0])),
    }
    alone = {"": (np.asarray([85.0]), np.asarray([55.0]))}
    (panel,) = figures.trade_off({"swept": points, "alone": alone}, x="clean", y="robust").axes
    swept, single = panel.containers
    np.testing.assert_allclose(swept.lines[0].get_xydata(), [[91, 50], [82, 61]])
    np.testing.assert_allclose(single.lines[0].get_xydata(), [[85, 55]])
    assert [text.get_text() for text in panel.texts] == ["1", "6", ""]
    assert [text.get_text() for text in panel.get_legend().get_texts()] == ["swept", "alone"]
    # Sample standard deviation of 80 and 84.
    bar = swept.lines[2][0].get_segments()[1]
    np.testing.assert_allclose(bar[:, 0], [82 - 8**0.5, 82 + 8**0.5])
    with pytest.raises(ValueError, match="families"):
        figures.trade_off({}, x="clean", y="robust")
    with pytest.raises(ValueError, match=r"families\['a'\] is empty"):
        figures.trade_off({"a": {}}, x="clean", y="robust")
    with pytest.raises(ValueError, match=r"families\['a'\]\['1'\] is empty"):
        figures.trade_off({"a": {"1": (np.zeros(0), np.zeros(0))}}, x="clean", y="robust")
