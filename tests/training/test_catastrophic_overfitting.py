"""FGSM training on MNIST: robust to FGSM alone from a zero start, to PGD from a random one."""

from pathlib import Path

import jax
import pytest

from jaxrobust import attacks, data, defenses, models, training
from jaxrobust.data import Split
from jaxrobust.evaluation import evaluate
from jaxrobust.threats import Linf

# Adam's bias correction promotes dtypes.
pytestmark = pytest.mark.usefixtures("default_promotion", "one_device")

THREAT = Linf(0.3)
EPOCHS, BATCH = 5, 100


@pytest.mark.slow
def test_the_start_decides_what_single_steps_teach(shared: Path, tmp_path: Path) -> None:
    mnist = data.load("mnist", data_dir=shared / "tensorflow_datasets", limit=4000)
    model = models.from_linen(models.build("wong_small", 10))
    optimizer = training.optimizer(
        "adam",
        training.schedule(
            "cyclic", 3e-3, EPOCHS * training.steps_per_epoch(mnist, BATCH), {"top": 0.2}
        ),
    )
    test = Split(mnist.test.x[:500], mnist.test.y[:500])
    judges = {
        "fgsm": attacks.fgsm(THREAT),
        "pgd": attacks.pgd(THREAT, step_size=0.01, steps=40),
    }
    found = {}
    for start in (attacks.clean, attacks.uniform):
        run = training.fit(
            0, model, defenses.fgsm(THREAT, start=start, ramp=0.3), mnist, optimizer,
            epochs=EPOCHS, batch_size=BATCH, run=tmp_path / start.__name__, config={},
            progress=False,
        )  # fmt: skip
        report = evaluate(
            jax.random.key(0), model, run.state.variables, test, judges,
            batch_size=500, progress=False,
        )  # fmt: skip
        found[start] = {name: attack.accuracy for name, attack in report.attacks.items()}

    zero, uniform = found[attacks.clean], found[attacks.uniform]
    # Catastrophic overfitting: what training sees looks robust, and is not (Wong's thesis, 4.1.2).
    assert zero["fgsm"] > 40
    assert zero["pgd"] < 10
    assert uniform["pgd"] > zero["pgd"] + 10
