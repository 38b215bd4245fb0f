"""Figures hold the data they were given."""

import threading

import matplotlib as mpl
import numpy as np
import pytest

from jaxrobust import figures
from jaxrobust.evaluation import Curve


def test_principal_components_are_the_covariance_eigenvectors():
    rng = np.random.default_rng(0)
    data = rng.normal(size=(50, 6)) * [1, 5, 0.1, 3, 0.2, 0.5] @ rng.normal(size=(6, 6)) + 7
    found = figures.principal_components(data, 3)
    values, vectors = np.linalg.eigh(np.cov(data.T))
    expected = vectors[:, ::-1][:, :3].T
    np.testing.assert_allclose(np.abs(np.sum(found * expected, 1)), 1, atol=1e-9)
    np.testing.assert_allclose(found @ found.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose((data @ found.T).var(0, ddof=1), values[::-1][:3])
    assert (found[np.arange(3), np.abs(found).argmax(1)] > 0).all()
    np.testing.assert_allclose(
        np.abs(figures.principal_components(data[:4], 2) @ (data[0] - data[1])),
        np.abs(np.linalg.svd(data[:4] - data[:4].mean(0))[2][:2] @ (data[0] - data[1])),
    )
    with pytest.raises(ValueError, match="principal components"):
        figures.principal_components(data[:1])


def test_perturbation_pca_projects_onto_the_data():
    rng = np.random.default_rng(0)
    # Data vary most along the third axis, then the first.
    images = rng.normal(size=(200, 2, 2)) * [[1.0, 0.01], [9.0, 0.01]]
    images -= images.mean(0)
    images[:, 1, 0] -= images[:, 0, 0] * (images[:, 1, 0] @ images[:, 0, 0]) / 200
    deltas = {"PGD": rng.normal(size=(20, 2, 2)), "DALE": 0.1 * rng.normal(size=(30, 2, 2))}
    figure = figures.perturbation_pca(images, deltas)
    assert len(figure.axes) == 2
    for panel, (name, delta) in zip(figure.axes, deltas.items(), strict=True):
        points = panel.collections[0].get_offsets()
        np.testing.assert_allclose(points[:, 0], delta[:, 1, 0], atol=0.1)
        np.testing.assert_allclose(points[:, 1], delta[:, 0, 0], atol=0.1)
        first, second = points.std(axis=0)
        assert name in panel.get_title()
        assert f"{first:.3g}" in panel.get_title()
        assert f"{second:.3g}" in panel.get_title()
        assert panel.get_xlim() == panel.get_ylim() == figure.axes[0].get_xlim()
        assert np.abs(points).max() < panel.get_xlim()[1]
    figures.perturbation_pca(images, {"none": np.zeros((3, 4))})


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
