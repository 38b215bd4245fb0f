"""Components and projections of perturbations, against covariances and by hand."""

import numpy as np
import pytest

from jaxrobust import figures


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


def test_perturbations_of_other_images_are_refused():
    images, deltas = np.eye(5).reshape(5, 5, 1), np.zeros((3, 4))
    with pytest.raises(ValueError, match=r"must have the images' 5 pixels, got shape \(3, 4\)"):
        figures.perturbation_pca(images, {"PGD": deltas})
    with pytest.raises(ValueError, match=r"perturbations\['PGD'\] is empty"):
        figures.perturbation_pca(images, {"PGD": np.zeros((0, 5))})
    with pytest.raises(ValueError, match="perturbations is empty"):
        figures.perturbation_pca(images, {})
    with pytest.raises(ValueError, match="principal components"):
        figures.perturbation_pca(images[:1], {"PGD": np.zeros((3, 5))})
