"""Training on floats: the same as on bytes where they are those bytes, and in any other box."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training.training_cases import assert_close, images, linear, normalized, sgd, untimed

from jaxrobust import attacks, data, defenses, evaluation, threats, training
from jaxrobust.data import Dataset, Split
from jaxrobust.types import Model

DATA = images()


def as_floats(dataset: Dataset, *, lower: float = 0.0, upper: float = 1.0) -> Dataset:
    """The same images as floats, from `lower` to `upper`."""

    def scaled(split: Split) -> tuple[np.ndarray, np.ndarray]:
        x = np.float32(split.x) / np.float32(255)
        return np.float32(lower) + np.float32(upper - lower) * x, split.y

    return data.from_arrays(*scaled(dataset.train), test=scaled(dataset.test), name=dataset.name)


def train(folder: Path, dataset: Dataset, **changes: Any) -> training.Run:
    settings: dict[str, Any] = {
        "model": normalized(),
        "defense": defenses.adversarial(attacks.pgd(threats.Linf(0.1), step_size=0.05, steps=2)),
        "optimizer": sgd(),
        "epochs": 2,
        "batch_size": 16,
        "config": {},
        "progress": False,
        "run": folder,
        **changes,
    }
    return training.fit(0, dataset=dataset, **settings)


@pytest.mark.slow
def test_floats_train_bit_for_bit_as_the_bytes_that_they_are(tmp_path: Path) -> None:
    augment = training.compose(training.crop_flip(1), training.cutout(2))
    runs = [
        train(tmp_path / kind, dataset, augment=augment)
        for kind, dataset in (("bytes", DATA), ("floats", as_floats(DATA)))
    ]
    assert_close(runs[1].state, runs[0].state)
    assert untimed(runs[1].history) == untimed(runs[0].history)
    assert runs[0].history[-1]["train_adversarial_accuracy"] > 0


@pytest.mark.slow
def test_floats_are_evaluated_as_the_bytes_that_they_are(tmp_path: Path) -> None:
    state = train(tmp_path, DATA).state
    attack = attacks.pgd(threats.Linf(0.1), step_size=0.05, steps=2)
    reports = [
        evaluation.evaluate(
            jax.random.key(0),
            normalized(),
            state.variables,
            dataset.test,
            {"pgd": attack},
            batch_size=8,
            progress=False,
        )
        for dataset in (DATA, as_floats(DATA))
    ]
    margins = [report.attacks["pgd"].margin for report in reports]
    np.testing.assert_array_equal(*margins)


def rescaled(model: Model) -> Model:
    """The model on images in [-1, 1] that `model` is on the same images in [0, 1]."""

    def to_unit(x: Any) -> Any:
        return (x + jnp.asarray(1, x.dtype)) / jnp.asarray(2, x.dtype)

    return Model(
        lambda key, x: model.init(key, to_unit(x)),
        lambda variables, x, **options: model.apply(variables, to_unit(x), **options),
    )


def test_another_box_trains_as_its_image_in_the_unit_box(tmp_path: Path) -> None:
    # An affine map, under which l-infinity balls, signs and boxes go over into one another.
    wide = threats.Linf(0.2, lower=-1, upper=1)
    augment = training.crop(1, fill=-1.0)
    unit = train(tmp_path / "unit", DATA, model=linear(), augment=training.crop(1))
    moved = train(
        tmp_path / "wide",
        as_floats(DATA, lower=-1),
        model=rescaled(linear()),
        defense=defenses.adversarial(attacks.pgd(wide, step_size=0.1, steps=2)),
        augment=augment,
    )
    assert_close(moved.state.variables, unit.state.variables, rtol=1e-4, atol=1e-5)


def test_vectors_without_a_box_train_and_are_evaluated(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y = np.arange(64) % 4
    x = 10 * np.eye(4)[y] + rng.normal(size=(64, 4))
    vectors = data.from_arrays(x, y, test=16)
    threat = threats.L2(1.0, lower=-jnp.inf, upper=jnp.inf)
    attack = attacks.pgd(threat, step_size=0.5, steps=3)
    run = train(
        tmp_path,
        vectors,
        model=linear(),
        defense=defenses.adversarial(attack),
        epochs=8,
    )
    report = evaluation.evaluate(
        jax.random.key(0),
        linear(),
        run.state.variables,
        vectors.test,
        {"pgd": attack},
        batch_size=16,
        progress=False,
    )
    assert report.attacks["pgd"].accuracy > 90
    assert float(vectors.train.x.max()) > 10


def attacked(threat: threats.Linf) -> dict[str, defenses.Defense]:
    pgd = attacks.pgd(threat, step_size=0.05, steps=2)
    return {
        "adversarial": defenses.adversarial(pgd),
        "trades": defenses.trades(pgd, beta=1.0),
        "awp": defenses.awp(pgd, gamma=0.01),
        "restarts": defenses.adversarial(attacks.restarts(pgd, 2)),
        "worst": defenses.worst(pgd, attacks.fgsm(threat)),
        "free": defenses.free(threat, shape=(16, 4, 4, 1), replays=2),
        "dual": defenses.dual(threat),
        "noisy_clp": defenses.noisy_clp(weight=0.1, lower=threat.lower, upper=threat.upper),
        "grad_align": defenses.grad_align(defenses.adversarial(pgd), threat, weight=0.1),
    }


@pytest.mark.parametrize("name", sorted(attacked(threats.Linf(0.1))))
def test_examples_outside_of_the_box_are_refused_before_training(tmp_path: Path, name: str) -> None:
    wide = as_floats(DATA, lower=-1)
    with pytest.raises(
        ValueError, match=r"inputs span \[-0.* must lie in \[0, 1\].*give the threat"
    ):
        train(tmp_path, wide, model=linear(), defense=attacked(threats.Linf(0.1))[name])
    assert not list(tmp_path.iterdir())
    boxed = attacked(threats.Linf(0.1, lower=-1, upper=1))[name]
    training.boxes.require_boxed(boxed, wide.train.x)


def test_no_box_is_looked_at_where_nothing_attacks(tmp_path: Path) -> None:
    assert train(tmp_path, as_floats(DATA, lower=-1), defense=defenses.erm()).history


@pytest.mark.parametrize("augment", [training.flip, training.crop(1), training.cutout(1)])
def test_vectors_are_not_augmented_as_images(augment: training.Augment) -> None:
    with pytest.raises(ValueError, match=r"needs images \[H, W, C\], got examples of shape \(4,\)"):
        augment(jax.random.key(0), jnp.zeros(4))
