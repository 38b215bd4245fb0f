"""The panels of a training history."""

import numpy as np
import pytest

from jaxrobust import figures


def test_training_curves_tolerate_missing_columns():
    history = [
        {"epoch": 1, "train_clean_loss": 0.9, "multiplier": 0.0},
        {"epoch": 2, "train_clean_loss": 0.7, "val_pgd_accuracy": 30.0, "multiplier": 0.4},
        {"epoch": 4, "train_adversarial_loss": 1.5, "val_pgd_accuracy": 40.0, "note": 3.0},
    ]
    accuracies, losses, multiplier = figures.training_curves(history, rho=0.8).axes
    np.testing.assert_array_equal(accuracies.lines[0].get_xydata(), [[2, 30], [4, 40]])
    assert [line.get_label() for line in losses.lines] == ["clean", "adversarial", "rho = 0.8"]
    np.testing.assert_array_equal(losses.lines[0].get_xydata(), [[1, 0.9], [2, 0.7]])
    assert losses.lines[2].get_linestyle() == "--"
    assert set(losses.lines[2].get_ydata()) == {0.8}
    np.testing.assert_array_equal(multiplier.lines[0].get_ydata(), [0.0, 0.4])
    bare = figures.training_curves([{"loss": 1.0}])
    assert len(bare.axes) == 3
    with pytest.raises(ValueError, match="history"):
        figures.training_curves([])
