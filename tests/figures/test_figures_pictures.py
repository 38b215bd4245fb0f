"""Images in their places, and their differences."""

import numpy as np
import pytest

from jaxrobust import figures


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 1), (5, 4, 3)])
def test_examples_grid_shows_images_and_differences(shape):
    rng = np.random.default_rng(0)
    clean = rng.uniform(0.2, 0.8, size=(3, *shape))
    perturbed = clean.copy()
    perturbed[:2] += rng.choice([-0.1, 0.1], size=(2, *shape))
    figure = figures.examples_grid(clean, perturbed, [0, 1, 1], [1, 1, 0], names=["cat", "dog"])
    assert len(figure.axes) == 9
    top = figure.axes[0].images[0].get_array()
    np.testing.assert_allclose(top, clean[0].squeeze())
    difference = figure.axes[6].images[0].get_array()
    rises = (perturbed[0] > clean[0]).astype(float).squeeze()
    np.testing.assert_allclose(difference, rises, atol=1e-9)
    np.testing.assert_allclose(figure.axes[8].images[0].get_array(), 0.5)
    titles = [panel.get_title() for panel in figure.axes]
    assert titles[0] == "label cat"
    assert titles[3] == "predicted dog"
    assert titles[6] == "max 0.1"
    with pytest.raises(ValueError, match="as many"):
        figures.examples_grid(clean, perturbed, [0], [1])


def test_picture_grid_shows_every_picture_in_its_place():
    rng = np.random.default_rng(0)
    rows = [[rng.uniform(size=(4, 3)), rng.uniform(size=(4, 3, 3))] for _ in range(3)]
    rows[2][0] = 3 * rows[2][0][..., None] - 1
    titles = [[f"{r}{c}" for c in range(2)] for r in range(3)]
    figure = figures.picture_grid(rows, titles=titles, rows=("a", "b", "c"))
    assert [panel.get_title() for panel in figure.axes] == ["00", "01", "10", "11", "20", "21"]
    assert [panel.get_ylabel() for panel in figure.axes] == ["a", "", "b", "", "c", ""]
    shown = [panel.images[0].get_array() for panel in figure.axes]
    np.testing.assert_allclose(shown[3], rows[1][1])
    np.testing.assert_allclose(shown[4], np.clip(rows[2][0], 0, 1)[..., 0])
    for wrong in ([*rows[:2], rows[2][:1]], rows[:2], [[], [], []]):
        with pytest.raises(ValueError, match=r"rows of equal length"):
            figures.picture_grid(wrong, titles=titles, rows=("a", "b", "c"))
    with pytest.raises(ValueError, match="pictures is empty"):
        figures.picture_grid([], titles=[], rows=())


def test_magnified_differences_span_the_gray_range():
    delta = np.asarray([[0.0, -0.02], [0.01, 0.02]])
    np.testing.assert_allclose(figures.magnified(delta), [[0.5, 0.0], [0.75, 1.0]])
    np.testing.assert_array_equal(figures.magnified(np.zeros((2, 2))), 0.5)


def test_examples_of_two_shapes_are_refused():
    clean = np.zeros((2, 4, 4))
    with pytest.raises(ValueError, match=r"one shape, got \(2, 4, 4\) and \(2, 4, 1\)"):
        figures.examples_grid(clean, clean[:, :, :1], [0, 1], [0, 1])
    with pytest.raises(ValueError, match="clean is empty"):
        figures.examples_grid(clean[:0], clean[:0], [], [])
