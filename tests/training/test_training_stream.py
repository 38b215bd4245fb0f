"""The loop over streamed batches: `fit` itself on one phase, and what phases add."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training.training_cases import CLASSES, assert_close, sgd, untimed

from jaxrobust import attacks, defenses
from jaxrobust.data import assemble, permutation, synthetic
from jaxrobust.models import from_linen
from jaxrobust.threats import Linf
from jaxrobust.training import Phase, Run, fit, fit_stream, phase_schedule
from jaxrobust.types import Array, Batch, Model

IMAGES, SIDE = 64, 4
SOURCE = synthetic(train_size=IMAGES, test_size=16, classes=CLASSES, shape=(SIDE, SIDE, 3))
DATA = assemble("synthetic", SOURCE)
FLAT = ((0.0, 0.1), (1.0, 0.1))
ONE = (Phase(2, SIDE, 16, FLAT),)
TWO = (Phase(1, SIDE, 16, FLAT), Phase(2, 2 * SIDE, 8, FLAT))


class Memory:
    """A feed of images in memory, each pixel repeated up to the size asked for."""

    name, num_classes, images = "synthetic", CLASSES, IMAGES

    def __init__(self, change: Callable[[Batch, int], list[Batch]] | None = None) -> None:
        self.change = change or (lambda batch, number: [batch])

    def shape(self, size: int) -> tuple[int, ...]:
        return size, size, 3

    def batches(self, seed: int, epoch: int, *, size: int, batch_size: int) -> Iterator[Batch]:
        times = size // SIDE
        order = np.asarray(permutation(seed, epoch, IMAGES, batch_size))
        for number, index in enumerate(order):
            x = DATA.train.x[index].repeat(times, axis=1).repeat(times, axis=2)
            yield from self.change(Batch(x, DATA.train.y[index], index), number)


class Pooled(nn.Module):
    """A convolution, batch normalization and a global average: takes images of any size."""

    axes: tuple[str, ...] = ()

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        x = nn.Conv(8, (3, 3))(x)
        x = nn.BatchNorm(use_running_average=not train, axis_name=self.axes or None)(x)
        return nn.Dense(CLASSES)(nn.relu(x).mean((1, 2)))


MODEL = from_linen(Pooled())
FGSM = defenses.fgsm(Linf(0.05), start=attacks.uniform, step_size=0.0625, attack_mode="train")


def train(folder: Path, **changes: Any) -> Run:
    settings: dict[str, Any] = {
        "model": MODEL,
        "defense": FGSM,
        "feed": Memory(),
        "optimizer": sgd(),
        "phases": TWO,
        "config": {"rate": 0.1},
        "progress": False,
        "run": folder,
        **changes,
    }
    return fit_stream(3, **settings)


SIZES: list[int] = []
"""Of images, at every trace of `COUNTED` in training."""


def noted(variables: Any, x: Array, *, train: bool, **options: Any) -> Any:
    if train:
        SIZES.append(x.shape[1])
    return MODEL.apply(variables, x, train=train, **options)


COUNTED = Model(MODEL.init, noted)


@pytest.mark.slow
@pytest.mark.parametrize("replays", [1, 2])
def test_one_phase_is_fit(tmp_path: Path, replays: int) -> None:
    defense = FGSM._replace(replays=replays)
    streamed = train(tmp_path / "stream", phases=ONE, defense=defense)
    whole = fit(
        3, MODEL, defense, DATA, sgd(),
        epochs=2, batch_size=16, run=tmp_path / "memory", config={}, progress=False,
    )  # fmt: skip
    assert_close(streamed.state, whole.state, rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(untimed(streamed.history), untimed(whole.history), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run, list[int]]:
    folder = tmp_path_factory.mktemp("finished") / "run"
    return folder, train(folder, model=COUNTED), list(SIZES)


def test_the_state_goes_on_through_phases_that_compile_once_each(finished: tuple) -> None:
    folder, run, sizes = finished
    # 64 images: 4 batches of 16, then twice 8 batches of 8.
    assert [row["step"] for row in run.history] == [4, 12, 20]
    assert int(run.state.step) == 20
    assert run.history[2]["train_loss"] < run.history[0]["train_loss"]
    # Two epochs trace the model as often as one.
    assert sizes.count(SIDE) == sizes.count(2 * SIDE) > 0
    config = json.loads((folder / "config.json").read_text())["fit"]
    assert [phase["size"] for phase in config["phases"]] == [4, 8]
    assert config["training_images"] == IMAGES


@pytest.mark.parametrize("epoch", [1, 2])
def test_an_interrupted_run_ends_like_one_left_alone(
    tmp_path: Path, finished: tuple, epoch: int
) -> None:
    class Killed(BaseException):
        pass

    seen: list[int] = []

    def die(batch: Batch, number: int) -> list[Batch]:
        seen.append(number)
        # In the second batch of the first epoch of 8 pixels, or of the next one.
        if len(seen) == 4 + 8 * (epoch - 1) + 2:
            raise Killed
        return [batch]

    with pytest.raises(Killed):
        train(tmp_path, feed=Memory(die))
    rows = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert len(rows) == epoch
    again = train(tmp_path)
    _, alone, _ = finished
    assert_close(again.state, alone.state)
    assert untimed(again.history) == untimed(alone.history)


def test_a_finished_run_reads_no_image(finished: tuple) -> None:
    folder, run, _ = finished

    def refuse(batch: Batch, number: int) -> list[Batch]:
        raise AssertionError("nothing is left to train")

    again = train(folder, model=COUNTED, feed=Memory(refuse))
    assert_close(again.state, run.state)
    for change, told in (
        ({"phases": TWO[:1]}, "'size': 8"),
        ({"optimizer": sgd(0.2)}, "optimizer.*step_size: -0.1 there, -0.2 here"),
        ({"defense": FGSM._replace(replays=2)}, "defense.replays: 1 there, 2 here"),
    ):
        with pytest.raises(ValueError, match=f"other settings.*{told}"):
            train(folder, **{"model": COUNTED, **change})


def test_rates_are_linear_within_phases_and_start_anew_with_each() -> None:
    warm = Phase(6, 8, 512, ((0.0, 0.0), (1 / 6, 0.4), (1.0, 0.04)))
    phases = (warm, Phase(6, 8, 256, ((0, 0.04), (1, 0.004))), Phase(3, 8, 128, ((0, 1), (1, 0))))
    rate = phase_schedule(phases, 5120)
    # 10, 20 and 40 steps an epoch.
    expected = {0: 0, 5: 0.2, 10: 0.4, 35: 0.22, 60: 0.04, 120: 0.022, 180: 1.0, 240: 0.5, 300: 0}
    for step, value in expected.items():
        assert float(rate(jnp.int32(step))) == pytest.approx(value, abs=1e-6), step
    replayed = phase_schedule(phases, 5120, replays=2)
    assert float(replayed(jnp.int32(20))) == pytest.approx(0.4)


def test_validation_marks_the_best_epoch(tmp_path: Path) -> None:
    scores = iter([0.0, 0.1, 0.5, 0.3])
    run = train(tmp_path, validate=lambda variables: {"score": next(scores)}, best_by="score")
    assert int(run.best.step) == 12
    assert [row["score"] for row in run.history] == [0.1, 0.5, 0.3]


def test_a_nan_names_its_step(tmp_path: Path) -> None:
    erm = defenses.erm()

    def loss(*arguments: Any) -> Any:
        value, aux = erm.loss(*arguments)
        # The run has 20 steps.
        now = jnp.round(arguments[-1].progress * 20) == 6
        return jnp.where(now, jnp.nan, value), aux

    with pytest.raises(FloatingPointError, match=r"became nan at step 6 \(epoch 2\)"):
        train(tmp_path, defense=defenses.Defense(erm.init, loss))
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b, n: [] if n == 3 else [b], "epoch 1 of 'synthetic' ended after 3 batches of 4"),
        (lambda b, n: [b, b] if n == 3 else [b], r"batch 5 of epoch 1 .*expected 4 batches"),
        (
            lambda b, n: [b._replace(x=b.x[:, :2])],
            r"batch 1 .*\[16, 2, 4, 3\]; expected 4 batches of \[16, 4, 4, 3\]",
        ),
    ],
)
def test_batches_that_were_not_asked_for_are_refused(
    tmp_path: Path, change: Callable, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        train(tmp_path, feed=Memory(change), phases=ONE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"phases": ()}, "phases is empty"),
        ({"phases": (Phase(1, 4, 12, FLAT),)}, "batch_size=12 does not divide over 8 devices"),
        ({"phases": (Phase(1, 4, 128, FLAT),)}, "64 training images fill no batch of 128"),
        ({"best_by": "score"}, "best_by='score' names a metric of `validate`"),
    ],
)
def test_mistakes_name_the_value_before_anything_is_trained(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    assert jax.device_count() == 8
    with pytest.raises(ValueError, match=message):
        train(tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs must be a whole number of at least 1, got 0"),
        ({"size": 0}, "size must be"),
        ({"rates": ((0.0, 0.1),)}, "rates need shares that rise from 0 to 1"),
        ({"rates": ((0.0, 0.1), (0.5, 0.2))}, "rates need shares that rise from 0 to 1"),
        ({"rates": ((0.0, 0.1), (1.0, -0.2))}, "rate must be finite and at least 0, got -0.2"),
    ],
)
def test_impossible_phases_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Phase(**{"epochs": 1, "size": 4, "batch_size": 8, "rates": FLAT, **changes})


@pytest.mark.slow
def test_a_stream_starts_from_given_weights_and_calls_back_as_fit_does(tmp_path: Path) -> None:
    start = MODEL.init(jax.random.key(5), jnp.zeros((1, SIDE, SIDE, 3)))
    rows: list[Any] = []
    given: dict[str, Any] = {"variables": start, "callbacks": [lambda state, row: rows.append(row)]}
    streamed = train(tmp_path / "stream", phases=ONE, **given)
    whole = fit(
        3, MODEL, FGSM, DATA, sgd(), epochs=2, batch_size=16, config={}, progress=False,
        run=tmp_path / "fit", variables=start,
    )  # fmt: skip
    assert_close(streamed.state.variables, whole.state.variables, rtol=1e-5, atol=1e-6)
    assert rows == streamed.history
    with pytest.raises(TypeError, match="callbacks must be a list"):
        train(tmp_path / "other", callbacks=print)
