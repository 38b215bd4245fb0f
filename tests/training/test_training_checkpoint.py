"""Checkpoints that are not what was saved: each kind is refused with the mend."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training.training_cases import images, linear, sgd

from jaxrobust import defenses
from jaxrobust.training import BEST, LAST, CheckpointError, Run, fit, saved_variables
from jaxrobust.training import checkpoint as checkpoints
from jaxrobust.training.seal import broken, seal
from jaxrobust.types import Variables

DATA = images()


def score(variables: Variables) -> dict[str, float]:
    """The largest after two epochs of three, in which the bias only grows."""
    size = float(jnp.abs(variables.params["b"]).sum())
    return {"score": -abs(size - 0.04)}


def train(folder: Path, epochs: int = 3) -> Run:
    return fit(
        0, linear(), defenses.erm(), DATA, sgd(0.01), epochs=epochs, batch_size=16, run=folder,
        config={}, validate=score, best_by="score", progress=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    run = train(folder)
    assert int(run.best.step) < int(run.state.step)
    return folder


def flipped(folder: Path) -> None:
    """The largest file of arrays, in the middle."""
    file = max(folder.glob("*/state/**/d/*"), key=lambda file: file.stat().st_size)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def without_rows(folder: Path) -> None:
    (file,) = folder.glob("*/history/metadata")
    held = json.loads(file.read_text())
    file.write_text(json.dumps({**held, "rows": []}))


def shortened(folder: Path) -> None:
    (file,) = folder.glob("*/history/metadata")
    held = json.loads(file.read_text())
    file.write_text(json.dumps({**held, "rows": held["rows"][:-1]}))


def one_digit(folder: Path) -> None:
    (file,) = folder.glob("*/history/metadata")
    file.write_text(file.read_text().replace('"epoch": 1', '"epoch": 2', 1))


def unsealed(folder: Path) -> None:
    (file,) = folder.glob("*/history/metadata")
    file.write_text(json.dumps(json.loads(file.read_text())["rows"]))


@pytest.mark.parametrize("kind", [LAST, BEST])
@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (flipped, "is broken"),
        (without_rows, "its history is not what was saved"),
        (shortened, "its history is not what was saved"),
        (one_digit, "its history is not what was saved"),
        (unsealed, "is broken"),
        (shutil.rmtree, "tells of 3 finished epochs|holds nothing, but by score the best epoch"),
    ],
)
def test_what_is_not_what_was_saved_is_refused(
    tmp_path: Path, finished: Path, kind: str, damage: Callable[[Path], None], told: str
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    damage(folder / kind)
    with pytest.raises(CheckpointError, match=f"({told}).*; delete the run folder or choose"):
        train(folder)
    if damage is not shutil.rmtree:
        with pytest.raises(CheckpointError, match="is broken"):
            saved_variables(folder, kind)


def test_last_and_best_are_not_each_other(tmp_path: Path, finished: Path) -> None:
    for source, target in ((BEST, LAST), (LAST, BEST)):
        folder = tmp_path / source
        shutil.copytree(finished, folder)
        shutil.rmtree(folder / target)
        shutil.copytree(finished / source, folder / target)
        with pytest.raises(CheckpointError, match=r"a checkpoint is lost|the best epoch was 2"):
            train(folder)


def test_a_state_and_a_history_of_two_epochs_are_refused(tmp_path: Path, finished: Path) -> None:
    (state,) = (finished / BEST).glob("*/state")
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    (other,) = (folder / LAST).glob("*/state")
    shutil.rmtree(other)
    shutil.copytree(state, other)
    with pytest.raises(CheckpointError, match="its state is not what was saved"):
        train(folder)


def test_a_kill_before_the_best_was_saved_is_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def save(run: Path, kind: str, *rest: object) -> None:
        if kind == BEST and len(rest[1]) == 2:
            raise Killed
        original(run, kind, *rest)

    original = checkpoints.save
    monkeypatch.setattr(checkpoints, "save", save)
    with pytest.raises(Killed):
        train(tmp_path / "killed")
    monkeypatch.undo()
    again, alone = train(tmp_path / "killed"), train(tmp_path / "alone")
    for one, other in ((again.best, alone.best), (again.state, alone.state)):
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
            assert jnp.array_equal(a, b)


def test_what_orbax_left_half_written_is_swept(tmp_path: Path, finished: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    (number,) = (folder / LAST).iterdir()
    left = folder / LAST / f"{int(number.name) + 1}.orbax-checkpoint-tmp-7"
    shutil.copytree(number, left)
    assert int(train(folder).state.step) == 12
    assert not left.exists()


def test_a_saved_state_is_read_without_knowing_its_kind(finished: Path) -> None:
    found = saved_variables(finished, LAST)
    for name, value in train(finished).state.variables.params.items():
        np.testing.assert_array_equal(found["params"][name], value)


def test_seals_see_every_byte_and_name_and_row() -> None:
    state = {"a": np.zeros(3, np.float32), "b": np.arange(2, dtype=jnp.bfloat16)}
    rows = [{"epoch": 1, "loss": float("nan")}]
    held = seal(state, rows)
    assert broken(held, state, rows) is None
    assert broken(held, {**state, "a": -state["a"]}, rows) == "state"
    assert broken(held, {"a": state["b"], "b": state["a"]}, rows) == "state"
    assert broken(held, state, []) == "history"
    assert broken(None, state, rows) == "state"
