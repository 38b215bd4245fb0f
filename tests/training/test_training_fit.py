"""The loop: compiles once, resumes, keeps the best, and refuses what cannot be right."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from training.training_cases import (
    assert_close,
    images,
    linear,
    normalized,
    plain,
    sgd,
    untimed,
)

from jaxrobust import attacks, defenses
from jaxrobust.data import pseudo_labeled
from jaxrobust.defenses import Defense, LossOutput, TrainContext
from jaxrobust.fingerprint import fingerprint
from jaxrobust.lagrangian import dual_ascent, pi
from jaxrobust.threats import Linf
from jaxrobust.training import (
    CheckpointError,
    Run,
    crop_flip,
    fit,
    init_state,
    loop,
    steps_per_epoch,
)
from jaxrobust.training import checkpoint as checkpoints
from jaxrobust.training import folder as run_folder
from jaxrobust.types import Array, Model, Variables

DATA = images()
PER_EPOCH = 4


def train(folder: Path, **changes: Any) -> Run:
    settings: dict[str, Any] = {
        "model": linear(),
        "defense": defenses.erm(),
        "dataset": DATA,
        "optimizer": sgd(),
        "epochs": 2,
        "batch_size": 16,
        "config": {"rate": 0.1},
        "progress": False,
        "run": folder,
        **changes,
    }
    return fit(0, **settings)


def scripted(scores: list[float]) -> Callable[[Variables], dict[str, float]]:
    """Validation with a given score for every epoch, and 0 before the first."""
    left = iter([0.0, *scores])
    return lambda variables: {"score": next(left)}


TRACES: list[bool] = []
"""Not in a closure, where it would identify the model."""


def counting(model: Model) -> tuple[Model, list[bool]]:
    """The model, and a list, emptied, that grows at every trace of it in training mode."""
    TRACES.clear()

    def apply(*arguments: Any, train: bool, **options: Any) -> Any:
        if train:
            TRACES.append(train)
        return model.apply(*arguments, train=train, **options)

    return Model(model.init, apply), TRACES


def test_learns_and_reports(tmp_path: Path) -> None:
    run = train(tmp_path, epochs=6)
    first, last = run.history[0], run.history[-1]
    assert last["train_clean_loss"] < 0.5 * first["train_clean_loss"]
    assert last["train_clean_accuracy"] > 90
    assert [row["step"] for row in run.history] == [PER_EPOCH * e for e in range(1, 7)]
    assert int(run.state.step) == 6 * PER_EPOCH
    assert run.best is run.state
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows == run.history
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 7
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["rate"] == 0.1
    assert config["fit"] == {
        "seed": 0,
        "epochs": 6,
        "batch_size": 16,
        "dataset": "synthetic",
        "images": fingerprint(DATA.train),
        "training_images": 64,
        "best_by": None,
    }


def test_more_epochs_compile_nothing_more(tmp_path: Path) -> None:
    counts = []
    for epochs in (1, 4):
        model, traces = counting(linear())
        train(tmp_path / str(epochs), model=model, epochs=epochs)
        counts.append(len(traces))
    assert counts[0] == counts[1] > 0


def test_variables_given_to_validation_outlive_the_donated_state(tmp_path: Path) -> None:
    seen: list[tuple[Variables, Any]] = []

    def validate(variables: Variables) -> dict[str, float]:
        seen.append((variables, plain(variables)))
        return {}

    train(tmp_path, epochs=3, validate=validate)
    assert len(seen) == 3
    for variables, at_the_time in seen:
        assert_close(variables, at_the_time)
    assert not np.array_equal(seen[0][1].params["w"], seen[2][1].params["w"])


@pytest.mark.slow
def test_bfloat16_computes_and_float32_stores(tmp_path: Path) -> None:
    half, full = (
        train(tmp_path / str(dtype.dtype), model=normalized(dtype=dtype), epochs=3)
        for dtype in (jnp.bfloat16, jnp.float32)
    )
    for tree in (half.state.variables, half.state.opt_state):
        assert {leaf.dtype for leaf in jax.tree.leaves(tree)} == {np.dtype("float32")}
    losses = [run.history[-1]["train_clean_loss"] for run in (half, full)]
    assert losses[0] != losses[1]
    np.testing.assert_allclose(*losses, rtol=0.1)


BEFORE_SCORE: list[Callable[[], None]] = []


def score(variables: Variables) -> dict[str, float]:
    for call in BEFORE_SCORE:
        call()
    return {"score": float(sum(jnp.abs(leaf).sum() for leaf in jax.tree.leaves(variables.params)))}


@pytest.mark.parametrize("moment", ["validation", "between last and best", "before metrics"])
def test_an_interrupted_run_ends_like_one_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    class Killed(BaseException):
        pass

    settings = {"validate": score, "best_by": "score", "epochs": 4}
    alone = train(tmp_path / "alone", **settings)

    calls: list[int] = []

    def dies(original: Callable, at: int, skip: Callable[..., bool] = lambda *a: False) -> Callable:
        def wrapped(*arguments: Any) -> Any:
            if not skip(*arguments):
                calls.append(1)
                if len(calls) == at:
                    raise Killed
            return original(*arguments)

        return wrapped

    if moment == "validation":
        # Its first call is the one before the first epoch.
        monkeypatch.setitem(globals(), "BEFORE_SCORE", [dies(lambda: None, 4)])
    elif moment == "before metrics":
        # Its first call is the one that opens the folder.
        monkeypatch.setattr(run_folder, "write_jsonl", dies(run_folder.write_jsonl, 5))
    else:
        best_only = dies(checkpoints.save, 2, lambda run, kind, *rest: kind == checkpoints.LAST)
        monkeypatch.setattr(checkpoints, "save", best_only)
    with pytest.raises(Killed):
        train(tmp_path / "killed", **settings)
    monkeypatch.undo()

    again = train(tmp_path / "killed", **settings)
    assert_close(again.state, alone.state)
    assert_close(again.best, alone.best)
    assert untimed(again.history) == untimed(alone.history)
    rows = (tmp_path / "killed" / "metrics.jsonl").read_text().splitlines()
    assert untimed([json.loads(row) for row in rows]) == untimed(alone.history)


def test_a_finished_run_is_read_not_repeated(tmp_path: Path) -> None:
    first = train(tmp_path, model=counting(linear())[0])
    model, traces = counting(linear())
    second = train(tmp_path, model=model)
    assert_close(second.state, first.state)
    assert second.history == first.history
    assert traces == []


@pytest.mark.parametrize(
    ("scores", "best"),
    [([0.1, 0.5, 0.3], 2), ([0.2, 0.2, 0.1], 1), ([np.nan, 0.1, np.nan], 2)],
)
def test_the_best_epoch_is_kept(tmp_path: Path, scores: list[float], best: int) -> None:
    run = train(tmp_path, epochs=3, validate=scripted(scores), best_by="score")
    shorter = train(tmp_path / "shorter", epochs=best, validate=scripted(scores))
    # Schedules aside, the state of an epoch does not depend on how many follow.
    assert_close(run.best, shorter.state)
    assert int(run.state.step) == 3 * PER_EPOCH


def test_an_unknown_best_by_is_refused_before_training(tmp_path: Path) -> None:
    model, traces = counting(linear())
    with pytest.raises(ValueError, match="best_by='skore' is no metric of this run; it has: score"):
        train(tmp_path, model=model, validate=scripted([]), best_by="skore")
    with pytest.raises(ValueError, match="best_by='score' names a metric of `validate`"):
        train(tmp_path, model=model, best_by="score")
    assert traces == []
    # The refused run has claimed nothing: another config may have the folder.
    train(tmp_path, config={"best_by": "score"}, validate=scripted([1, 2]), best_by="score")


def test_another_config_is_refused_by_name(tmp_path: Path) -> None:
    train(tmp_path, config={"rate": 0.1, "method": "erm", "at": (1, 2)})
    train(tmp_path, config={"at": [1, 2], "rate": 0.1, "method": "erm"})
    with pytest.raises(
        ValueError, match=r"rate: 0\.1 there, 0\.2 here; rho: 'nothing' there, 1 here"
    ):
        train(tmp_path, config={"rate": 0.2, "method": "erm", "at": (1, 2), "rho": 1})
    for garbage in (b"{", b"\xff\xfe", b"3"):
        (tmp_path / "config.json").write_bytes(garbage)
        with pytest.raises(ValueError, match=r"config\.json holds no JSON object; delete"):
            train(tmp_path)


def test_what_fit_itself_sees_identifies_the_run(tmp_path: Path) -> None:
    train(tmp_path)
    inverted = dataclasses.replace(DATA, train=DATA.train._replace(x=255 - DATA.train.x))
    for change, told in (
        ({"epochs": 3}, "fit.epochs: 2 there, 3 here"),
        ({"batch_size": 32}, "fit.batch_size: 16 there"),
        ({"dataset": images(train=80)}, "fit.training_images: 64 there"),
        # Other pixels under the same name, such as a set encoded anew.
        ({"dataset": inverted}, "fit.images: '[0-9a-f]{16}' there"),
    ):
        with pytest.raises(ValueError, match=f"other settings.*{told}"):
            train(tmp_path, **change)
    with pytest.raises(ValueError, match=r"fit\.seed: 0 there, 7 here"):
        fit(
            7, linear(), defenses.erm(), DATA, sgd(),
            epochs=2, batch_size=16, config={"rate": 0.1}, run=tmp_path,
        )  # fmt: skip


def dale(steps: int = 1) -> Defense:
    return defenses.dale(
        attacks.langevin(Linf(0.1), step_size=0.1, steps=steps, temperature=0.0), rho=0.5
    )


def other_score(variables: Variables) -> dict[str, float]:
    return {"score": float(len(jax.tree.leaves(variables)))}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"optimizer": sgd(0.2)}, r"optimizer\.[\w.]*step_size: -0.1 there, -0.2 here"),
        ({"defense": dale(2)}, r"\(defense\.loss\.attack\.steps: 1 there, 2 here\)"),
        ({"multiplier": dual_ascent(0.2)}, r"\(multiplier\.update\.step_size: 0.1 there, 0.2 here"),
        ({"augment": crop_flip(2)}, r"\(augment.augmentations.0.padding: 1 there, 2 here\)"),
        ({"model": normalized(rate=0.1)}, r"\(model\.init\.module\.rate: 0.0 there, 0.1 here; "),
        ({"validate": other_score}, r"\(validate\.\(kind\): 'score' there, 'other_score' here"),
    ],
)
def test_everything_given_identifies_the_run(
    tmp_path: Path, finished_dale: Path, change: dict[str, Any], told: str
) -> None:
    shutil.copytree(finished_dale, tmp_path / "run")
    with pytest.raises(ValueError, match=f"other settings.*{told}.*choose another"):
        train(tmp_path / "run", **{**given(), **change})
    # The same things made anew are the same; when to stop, such as at a deadline, may change.
    assert len(train(tmp_path / "run", **given(), stop=lambda history: True).history) == 1


def given() -> dict[str, Any]:
    """One of everything that a run may be given."""
    return {
        "model": normalized(),
        "defense": dale(),
        "optimizer": sgd(),
        "multiplier": dual_ascent(0.1),
        "augment": crop_flip(1),
        "validate": score,
        "epochs": 1,
    }


@pytest.fixture(scope="module")
def finished_dale(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dale") / "run"
    train(folder, **given())
    return folder


def test_runs_without_an_identity_are_not_taken_on_trust(tmp_path: Path) -> None:
    train(tmp_path)
    (tmp_path / "identity.json").unlink()
    with pytest.raises(ValueError, match=r"no identity\.json, .*choose another folder or delete"):
        train(tmp_path)


def test_checkpoints_without_a_config_belong_to_nobody(tmp_path: Path) -> None:
    train(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match=r"holds checkpoints but no config\.json"):
        train(tmp_path)


def test_a_model_needs_a_logit_for_each_class(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has 4 classes; build it with num_classes=4"):
        train(tmp_path, model=linear(classes=2))
    assert os.listdir(tmp_path) == []


def files_of(folder: Path) -> list[Path]:
    return sorted(f for f in folder.rglob("*") if f.is_file() and f.stat().st_size > 0)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    train(folder)
    return folder


@pytest.mark.parametrize("damage", ["empty", "truncate", "garbage"])
def test_damaged_checkpoints_are_refused_with_the_mend(
    tmp_path: Path, finished: Path, damage: str
) -> None:
    spoil = {
        "empty": lambda data: b"",
        "truncate": lambda data: data[: len(data) // 2],
        "garbage": lambda data: bytes(255 - b for b in data),
    }[damage]
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    files = [f for f in files_of(folder / "last") if "state" in str(f) or "history" in str(f)]
    assert len(files) > 2
    for file in files:
        file.write_bytes(spoil(file.read_bytes()))
    with pytest.raises(CheckpointError, match=r"run/last.*delete the run folder or choose"):
        train(folder)


def test_every_damaged_file_is_either_noticed_or_harmless(tmp_path: Path, finished: Path) -> None:
    """No truncation of a single file may yield another state without an error."""
    expected = train(finished)
    noticed = 0
    for file in files_of(finished / "last"):
        folder = tmp_path / "run"
        shutil.copytree(finished, folder)
        target = folder / file.relative_to(finished)
        target.write_bytes(target.read_bytes()[: target.stat().st_size // 2])
        try:
            found = train(folder)
        except CheckpointError:
            noticed += 1
        else:
            assert_close(found.state, expected.state)
            assert found.history == expected.history
        shutil.rmtree(folder)
    assert noticed >= 2


def test_a_foreign_checkpoint_is_refused(finished: Path) -> None:
    narrow = linear()

    def twice(x: Array) -> Array:
        return jnp.concatenate([x, x], axis=-1)

    wide = Model(
        lambda key, x: narrow.init(key, twice(x)),
        lambda variables, x, **options: narrow.apply(variables, twice(x), **options),
    )
    fresh = (jax.random.key(0), linear(), defenses.erm(), sgd(), None, jnp.zeros((1, 4, 4, 1)))
    dale = defenses.dale(
        attacks.langevin(Linf(0.1), step_size=0.1, steps=1, temperature=0.0), rho=0.5
    )
    others = {
        "structure": {1: normalized()},
        "optimizer": {3: optax.sgd(0.1)},
        "shape": {1: wide},
        "method": {2: dale, 4: dual_ascent(0.1)},
    }
    for changes in others.values():
        like = init_state(*(changes.get(place, part) for place, part in enumerate(fresh)))
        with pytest.raises(CheckpointError, match=r"run/last.*another") as caught:
            checkpoints.restore(finished, checkpoints.LAST, like)
        assert "choose another" in str(caught.value)


def test_an_unwritable_run_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"could not write .*file/run/\.lock"):
        train(tmp_path / "file" / "run")

    def full(*arguments: Any, **options: Any) -> None:
        raise error

    # A full disk reaches us as an OSError from Python and as a ValueError from TensorStore.
    for error in (
        OSError(28, "No space left on device"),
        ValueError("RESOURCE_EXHAUSTED: no room"),
    ):
        monkeypatch.setattr(checkpoints.ocp.CheckpointManager, "save", full)
        folder = tmp_path / type(error).__name__
        with pytest.raises(OSError, match=r"cannot write a checkpoint under .*last.*[Nn]o .*free"):
            train(folder)
        monkeypatch.undo()
        assert len(train(folder).history) == 2


def broken_at(step: int, *, where: str) -> Defense:
    """ERM whose loss, or only its gradient, is NaN at one step of a run of two epochs."""
    erm = defenses.erm()
    total = 2 * PER_EPOCH

    def loss(
        key: Any, model: Model, variables: Variables, batch: Any, context: TrainContext
    ) -> Any:
        value, aux = erm.loss(key, model, variables, batch, context)
        now = jnp.round(context.progress * total) == step
        if where == "loss":
            return jnp.where(now, jnp.nan, value), aux
        # The root of 0 is finite, its derivative is not.
        root = jnp.sqrt(jnp.sum(0.0 * variables.params["w"]) + jnp.where(now, 0.0, 1.0))
        return value + root, aux

    return Defense(erm.init, loss)


@pytest.mark.parametrize(("where", "name"), [("loss", "gradient_norm|loss"), ("gradient", "grad")])
@pytest.mark.parametrize("step", [0, 3, 6])
def test_a_nan_stops_the_run_and_names_the_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, name: str, step: int
) -> None:
    monkeypatch.setattr(loop, "STEPS_PER_CALL", 2)
    message = rf"({name}).* became nan at step {step} \(epoch {step // PER_EPOCH + 1}\)"
    with pytest.raises(FloatingPointError, match=message):
        train(tmp_path, defense=broken_at(step, where=where))
    # The last good checkpoint stands.
    assert (tmp_path / "last").is_dir() == (step >= PER_EPOCH)


def test_impossible_batches_are_refused(tmp_path: Path) -> None:
    assert jax.device_count() == 8
    with pytest.raises(ValueError, match="batch_size=12 does not divide over 8 devices"):
        train(tmp_path, batch_size=12)
    with pytest.raises(ValueError, match="64 training images fill no batch of 128"):
        train(tmp_path, batch_size=128)
    with pytest.raises(ValueError, match="epochs"):
        train(tmp_path, epochs=0)
    assert os.listdir(tmp_path) == []
    assert steps_per_epoch(DATA, 24) == 2


def test_constraints_and_multipliers_belong_together(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no constraint; pass multiplier=None"):
        train(tmp_path, multiplier=dual_ascent(0.1))
    constrained = defenses.erm()._replace(constrained=True)
    with pytest.raises(ValueError, match="needs a multiplier"):
        train(tmp_path, defense=constrained)


def test_every_constraint_has_a_multiplier_and_columns_of_its_own(tmp_path: Path) -> None:
    erm = defenses.erm()

    def loss(*arguments: Any) -> tuple[Array, LossOutput]:
        value, aux = erm.loss(*arguments)
        g = jnp.stack([value - 0.1, value - 100.0])
        return value + arguments[-1].nu @ g, aux._replace(violation=g)

    two = Defense(erm.init, loss, constrained=True)
    run = train(tmp_path, defense=two, multiplier=pi(0.1, proportional=0.5, initial=jnp.zeros(2)))
    row = run.history[-1]
    assert row["multiplier_0"] > 0.1 > 0 == row["multiplier_1"]
    np.testing.assert_allclose(run.state.multiplier.value, [row["multiplier_0"], 0])
    assert row["train_violation_0"] - row["train_violation_1"] == pytest.approx(99.9, rel=1e-4)


def test_a_method_with_state_keeps_it(tmp_path: Path) -> None:
    erm = defenses.erm()

    def loss(*arguments: Any) -> tuple[Array, LossOutput]:
        value, aux = erm.loss(*arguments)
        return value, aux._replace(state=arguments[-1].state + jnp.int32(2))

    run = train(tmp_path, defense=Defense(lambda: jnp.int32(5), loss))
    assert int(run.state.defense_state) == 5 + 2 * 2 * PER_EPOCH


def test_half_of_every_batch_is_labeled(tmp_path: Path) -> None:
    """Counted over two epochs on eight devices: how often each image was trained on, and where."""
    data = pseudo_labeled(images(train=40), DATA.train.x[:24], DATA.train.y[:24])
    erm = defenses.erm()

    def loss(*arguments: Any) -> tuple[Array, LossOutput]:
        value, aux = erm.loss(*arguments)
        batch, context = arguments[-2:]
        seen = jnp.zeros(64, jnp.int32).at[batch.index].add(1)
        aux.metrics["labeled_share"] = jnp.mean((batch.index < 40).astype(jnp.float32))
        return value, aux._replace(state=context.state + jax.lax.psum(seen, context.axes))

    counting_defense = Defense(lambda: jnp.zeros(64, jnp.int32), loss)
    run = train(tmp_path, defense=counting_defense, dataset=data)
    # 40 labeled images fill halves of eight five times; the 24 others three times, then again.
    assert steps_per_epoch(data, 16) == 5
    assert int(run.state.step) == 10
    counts = np.asarray(run.state.defense_state)
    np.testing.assert_array_equal(counts[:40], 2)
    assert counts[40:].sum() == 2 * 5 * 8
    assert set(counts[40:]) <= {2, 3, 4}
    assert all(row["train_labeled_share"] == 0.5 for row in run.history)


def test_the_labeled_images_identify_the_run(tmp_path: Path) -> None:
    parts = [images(train=n) for n in (32, 40)]
    few, more = (
        pseudo_labeled(d, DATA.train.x[: 64 - d.train.size], DATA.train.y[: 64 - d.train.size])
        for d in parts
    )
    train(tmp_path, dataset=few)
    with pytest.raises(ValueError, match=r"fit\.labeled_images: 32 there, 40 here"):
        train(tmp_path, dataset=more)
    with pytest.raises(ValueError, match="other settings"):
        train(tmp_path)
    with pytest.raises(ValueError, match="24 pseudo-labeled examples do not fill half a batch"):
        train(tmp_path / "other", dataset=more, batch_size=56)
    assert not (tmp_path / "other").exists()
