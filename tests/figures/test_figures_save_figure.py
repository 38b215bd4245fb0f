"""Files of figures, written without a display."""

import threading

import matplotlib as mpl
import pytest

from jaxrobust import figures


def test_saves_without_a_display_from_any_thread(tmp_path):
    before = mpl.rcParams.copy()
    figure = figures.training_curves([{"epoch": 0, "multiplier": 1.0}])

    def save():
        figures.save_figure(figure, tmp_path / "sub" / "curve.png")

    thread = threading.Thread(target=save)
    thread.start()
    thread.join()
    assert (tmp_path / "sub" / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert figures.save_figure(figure, tmp_path / "c.pdf").read_bytes().startswith(b"%PDF")
    assert dict(before) == dict(mpl.rcParams)
    with pytest.raises(ValueError, match="odd"):
        figures.save_figure(figure, tmp_path / "c.odd")
