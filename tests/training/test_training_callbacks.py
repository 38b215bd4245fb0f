"""Callbacks after every epoch, the writers among them, and gradients accumulated over steps."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optax
import pytest
from training.training_cases import assert_close, images, linear

from jaxrobust import defenses, training
from jaxrobust.training import Run, TrainState, fit, writers

DATA = images()


def train(folder: Path, **changes: Any) -> Run:
    settings: dict[str, Any] = {
        "model": linear(),
        "defense": defenses.erm(),
        "dataset": DATA,
        "optimizer": optax.sgd(0.1),
        "epochs": 3,
        "batch_size": 16,
        "config": {},
        "progress": False,
        "run": folder,
        **changes,
    }
    return fit(0, **settings)


class Recorder:
    """Keeps what it is called with."""

    def __init__(self, folder: Path, *, fails_at: int | None = None) -> None:
        self.folder, self.fails_at = folder, fails_at
        self.calls: list[tuple[TrainState, Mapping[str, Any]]] = []
        self.saved: list[int] = []

    def __call__(self, state: TrainState, row: Mapping[str, Any]) -> None:
        if row["epoch"] == self.fails_at:
            raise RuntimeError("planted")
        self.calls.append((state, row))
        self.saved.append(len((self.folder / "metrics.jsonl").read_text().splitlines()))


def test_callbacks_see_every_epoch_once_it_is_saved(tmp_path: Path) -> None:
    one, other = Recorder(tmp_path), Recorder(tmp_path)
    run = train(tmp_path, callbacks=[one, other], validate=lambda variables: {"score": 7.0})
    assert [row for _, row in one.calls] == run.history
    assert [row["score"] for _, row in other.calls] == [7.0] * 3
    assert one.saved == [1, 2, 3]
    states = [state for state, _ in one.calls]
    assert [int(state.step) for state in states] == [4, 8, 12]
    # Kept states outlive the donated ones.
    assert_close(states[-1], run.state)
    assert not np.array_equal(states[0].variables.params["w"], states[1].variables.params["w"])


def test_an_error_in_a_callback_loses_no_epoch_and_resuming_repeats_none(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="planted"):
        train(tmp_path, callbacks=(Recorder(tmp_path, fails_at=2),))
    later = Recorder(tmp_path)
    run = train(tmp_path, callbacks=(later,))
    assert [row["epoch"] for _, row in later.calls] == [3]
    assert len(run.history) == 3


@pytest.mark.parametrize("callbacks", [print, [print, None], [3]])
def test_what_are_no_callbacks_is_refused(tmp_path: Path, callbacks: Any) -> None:
    with pytest.raises(TypeError, match="callbacks must be a list of functions"):
        train(tmp_path / "run", callbacks=callbacks)
    assert not (tmp_path / "run").exists()


def points(folder: Path, name: str, count: int) -> list[Any]:
    """What TensorBoard reads, once the writer's thread has written so many."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for _ in range(100):
        read = reader.EventAccumulator(str(folder)).Reload()
        found = read.Scalars(name) if name in read.Tags()["scalars"] else []
        if len(found) >= count:
            break
        time.sleep(0.1)
    return found


def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    run = train(tmp_path / "run", callbacks=[writers.tensorboard(tmp_path / "events")])
    for name in ("images_per_second", "train_loss", "train_clean_accuracy"):
        found = points(tmp_path / "events", name, 3)
        assert [point.step for point in found] == [4, 8, 12]
        wanted = [row[name] for row in run.history]
        np.testing.assert_allclose([point.value for point in found], wanted, rtol=1e-6)


CODE = """
import sys
if sys.argv[2] == "torch":
    sys.modules["tensorboardX"] = None
from jaxrobust.training import writers
writers.tensorboard(sys.argv[1])(None, {"epoch": 1, "step": 4, "loss": 0.5, "note": "text"})
assert "tensorflow" not in sys.modules
"""


@pytest.mark.parametrize("package", ["torch", "tensorboardX"])
def test_a_process_that_ends_at_once_has_written_without_tensorflow(
    tmp_path: Path, package: str
) -> None:
    pytest.importorskip(package)
    pytest.importorskip("tensorboard")
    command = [sys.executable, "-c", CODE, str(tmp_path), package]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (point,) = points(tmp_path, "loss", 1)
    assert (point.step, point.value) == (4, 0.5)


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("tensorboardX", "torch.utils.tensorboard", "wandb"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match="install one with: pip install tensorboardX"):
        writers.tensorboard(tmp_path)
    with pytest.raises(ValueError, match=r"writers.wandb needs W&B; .*: pip install wandb"):
        writers.wandb(project="robust")


def test_wandb_is_told_every_metric_at_its_step(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    begun, told = [], []

    class Logged:
        def log(self, row: Mapping[str, float], *, step: int) -> None:
            told.append((step, row))

    package = types.ModuleType("wandb")
    package.init = lambda **options: begun.append(options) or Logged()  # pyright: ignore
    monkeypatch.setitem(sys.modules, "wandb", package)
    run = train(tmp_path, callbacks=[writers.wandb(project="robust", id="a1", config={"r": 1})])
    assert [(o["project"], o["id"], o["resume"], o["config"]) for o in begun] == [
        ("robust", "a1", "allow", {"r": 1})
    ]
    assert [step for step, _ in told] == [4, 8, 12]
    assert [row["train_loss"] for _, row in told] == [row["train_loss"] for row in run.history]


# As experiments run: Optax counts the steps between in whole numbers.
@pytest.mark.usefixtures("default_promotion")
def test_gradients_accumulated_over_steps_are_those_of_a_larger_batch(tmp_path: Path) -> None:
    large = train(tmp_path / "large", batch_size=32)
    every_second = optax.MultiSteps(optax.sgd(0.1), every_k_schedule=2)
    small = train(tmp_path / "small", optimizer=every_second.gradient_transformation())
    assert [int(run.state.step) for run in (large, small)] == [6, 12]
    assert_close(small.state.variables, large.state.variables, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("default_promotion")
def test_an_accumulating_run_resumes(tmp_path: Path) -> None:
    def settings() -> dict[str, Any]:
        accumulating = optax.MultiSteps(training.optimizer("sgd", 0.1), every_k_schedule=3)
        return {"optimizer": accumulating.gradient_transformation()}

    alone = train(tmp_path / "alone", **settings())
    with pytest.raises(RuntimeError, match="planted"):
        train(tmp_path / "cut", callbacks=[Recorder(tmp_path / "cut", fails_at=1)], **settings())
    assert_close(train(tmp_path / "cut", **settings()).state, alone.state)
    rows = (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["epoch"] for row in rows] == [1, 2, 3]
