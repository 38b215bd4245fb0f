"""The one small training that tests of commands on a trained model share."""

from pathlib import Path

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
