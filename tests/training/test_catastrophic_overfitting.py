"""FGSM training on digits: a zero start collapses and the check sees it; a random start stays."""

from pathlib import Path

import jax
import pytest

from jaxrobust import attacks, data, defenses, models, training
from jaxrobust.data import Dataset
from jaxrobust.evaluation import evaluate
from jaxrobust.threats import Linf
from jaxrobust.types import Model, Variables

# Adam's bias correction promotes dtypes.
pytestmark = pytest.mark.usefixtures("default_promotion")

THREAT = Linf(0.3)
EPOCHS = 40
DROP = 15.0


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return data.load("digits", validation=200)


@pytest.fixture(scope="module")
def model() -> Model:
    return models.from_linen(models.build("digits_cnn", 10))


def robust_accuracy(model: Model, dataset: Dataset, variables: Variables) -> float:
    pgd = attacks.pgd(THREAT, step_size=0.075, steps=7)
    report = evaluate(
        jax.random.key(0), model, variables, dataset.validation, {"pgd": pgd},
        batch_size=200, devices=jax.devices()[:1], progress=False,
    )  # fmt: skip
    return report.attacks["pgd"].accuracy


def train(model: Model, dataset: Dataset, start: attacks.Start, folder: Path) -> training.Run:
    steps = EPOCHS * training.steps_per_epoch(dataset, 32)
    return training.fit(
        0, model, defenses.fgsm(THREAT, start=start), dataset,
        training.optimizer("adam", training.schedule("cyclic", 2e-2, steps)),
        epochs=EPOCHS, batch_size=32, run=folder, config={}, progress=False,
        validate=lambda variables: {"pgd": robust_accuracy(model, dataset, variables)},
        best_by="pgd", stop=training.collapsed("pgd", drop=DROP),
    )  # fmt: skip


@pytest.mark.slow
def test_the_zero_start_collapses_and_the_epoch_before_is_kept(
    tmp_path: Path, model: Model, digits: Dataset
) -> None:
    run = train(model, digits, attacks.clean, tmp_path)
    robust = [row["pgd"] for row in run.history]
    assert len(robust) < EPOCHS
    assert robust[-2] - robust[-1] > DROP
    # Against FGSM itself the last epoch still learns: the loss that training sees hides it.
    before, last = (row["train_adversarial_loss"] for row in run.history[-2:])
    assert last < 1.5 * before
    assert robust_accuracy(model, digits, run.best.variables) == max(robust) > 25


@pytest.mark.slow
def test_a_random_start_does_not(tmp_path: Path, model: Model, digits: Dataset) -> None:
    run = train(model, digits, attacks.uniform, tmp_path)
    robust = [row["pgd"] for row in run.history]
    assert len(robust) == EPOCHS
    assert robust[-1] > 35
