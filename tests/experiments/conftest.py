"""What tests of commands share: one small training, and random weights of a released network."""

from pathlib import Path

import numpy as np
import pytest

from jaxrobust import data, defenses, models, training


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, training.Run]:
    """A run as README's, by `training.fit` with a config of one's own: 8 units, two epochs."""
    folder = tmp_path_factory.mktemp("runs") / "readme"
    run = training.fit(
        0,
        models.from_linen(models.build("mlp", 10, {"widths": (8,)})),
        defenses.erm(),
        data.load("digits", validation=100),
        training.optimizer("sgd", 0.2),
        epochs=2,
        batch_size=32,
        run=folder,
        config={"method": "erm"},
        progress=False,
    )
    return folder, run


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of Wong's small network for 8 x 8 digits, in the released layout."""
    random = np.random.default_rng(0)
    shapes = {"conv1": (16, 1, 4, 4), "conv2": (32, 16, 4, 4), "dense1": (100, 128)}
    arrays = {}
    for name, shape in (shapes | {"dense2": (10, 100)}).items():
        scale = np.sqrt(2 / np.prod(shape[1:]))
        arrays[f"{name}/weight"] = (scale * random.normal(size=shape)).astype(np.float32)
        arrays[f"{name}/bias"] = (0.1 * random.normal(size=shape[0])).astype(np.float32)
    path = tmp_path_factory.mktemp("weights") / "net.npz"
    np.savez(path, **arrays)
    return path
