"""The ImageNet recipe on a few made-up images: the command as a user runs it."""

from __future__ import annotations

import dataclasses
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from experiments.common.rows import Outcome
from experiments.imagenet.__main__ import main
from experiments.imagenet.config import Config, setting_of
from experiments.imagenet.judging import evaluate_stream, joined
from experiments.imagenet.made_up import CLASSES, NAME, SIDES, made_up
from experiments.imagenet.recipes import PRESETS
from experiments.imagenet.tables import phase_rows
from jaxrobust.data import Stream, open_stream
from jaxrobust.evaluation import AttackReport, Report, Timing
from jaxrobust.threats import Linf
from jaxrobust.training import phase_schedule
from jaxrobust.types import Model, Variables

ROOT = Path(__file__).resolve().parents[2]


def small(out: Path, **changes: Any) -> Config:
    options = {
        "out": out,
        "limit": 24,
        "test_limit": 11,
        "threads": 2,
        "epochs": (1, 1, 1),
        "sizes": (16, 16, 16),
        "batch_sizes": (8, 8, 8),
        "eval_size": 16,
        "eval_batch": 8,
        "steps": 2,
        "restarts": 2,
        "dtype": "float32",
        "progress": False,
    }
    return Config(**(options | changes))


@pytest.mark.slow
@pytest.mark.usefixtures("default_promotion")
def test_the_recipe_trains_attacks_and_resumes(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One block compiles sooner; that a phase may change the size, the tests of the loop show.
    short = dataclasses.replace(PRESETS["made-up"], network={"width": 4, "blocks": (1,)})
    monkeypatch.setitem(PRESETS, "made-up", short)
    (row,) = main(small(tmp_path))
    folder = tmp_path / "made-up"
    run = folder / "fgsm_rs-eps=4_255-seed0"
    report = json.loads((run / "test_last.json").read_text())
    assert len(report["clean"]) == 11
    accuracies = {
        "Clean": np.mean(report["clean"]),
        **{name: np.mean(attack["robust"]) for name, attack in report["attacks"].items()},
    }
    assert list(accuracies) == ["Clean", "PGD2+1", "PGD2+2"]
    for column, share in accuracies.items():
        assert row[column] == pytest.approx(100 * share)
    assert row["PGD2+2"] <= row["PGD2+1"] <= row["Clean"]
    saved = json.loads((folder / "table.json").read_text())
    assert (saved["rows"], saved["script"], saved["preset"]) == ([row], "imagenet", "made-up")

    history = (run / "metrics.jsonl").read_text()
    epochs = [json.loads(line) for line in history.splitlines()]
    assert [epoch["step"] for epoch in epochs] == [3, 6, 9]
    phases = json.loads((folder / "phases.json").read_text())["rows"]
    assert [phase["pixels"] for phase in phases] == [16, 16, 16]
    assert [phase["seconds"] for phase in phases] == [epoch["seconds"] for epoch in epochs]
    assert (folder / "phases.png").stat().st_size > 1000
    assert "fgsm_rs eps=4/255" in capsys.readouterr().out

    assert main(small(tmp_path)) == [row]
    assert (run / "metrics.jsonl").read_text() == history  # timings included: no epoch ran again


def test_the_recipe_is_the_thesis() -> None:
    setting = PRESETS["imagenet"]
    assert [(p.epochs, p.size, p.batch_size) for p in setting.phases] == [
        (6, 128, 512),
        (6, 224, 224),
        (3, 288, 128),
    ]
    assert (setting.radii, setting.dtype, setting.weight_decay) == ((2, 4), "bfloat16", 1e-4)
    assert (setting.steps, setting.restarts, setting.step_size) == (50, 10, 1)
    images = 1_281_167
    rate = phase_schedule(setting.phases, images)
    per = [images // 512, images // 224, images // 128]
    second, third = 6 * per[0], 6 * per[0] + 6 * per[1]
    # lr 0 -> .4 -> .04, .04 -> .004, .004 -> .0004, by the iteration.
    for step, expected in (
        (0, 0.0),
        (per[0] // 2, 0.2),
        (per[0], 0.4),
        (second - 1, 0.04),
        (second + 3 * per[1], 0.022),
        (third, 0.004),
        (third + 3 * per[2], 0.0004),
    ):
        assert float(rate(jnp.int32(step))) == pytest.approx(expected, rel=2e-3, abs=1e-6)

    once = setting.columns(4.0)["PGD50+1"]
    assert once.settings["threat"] == Linf(4 / 255)
    assert (once.settings["step_size"], once.settings["steps"]) == (1 / 255, 50)
    # Ten runs of one attack, each on what those before left standing.
    columns = setting.columns(4.0)
    assert list(columns) == [f"PGD50+{n}" for n in range(1, 11)]
    assert all(attack is columns["PGD50+1"] for attack in columns.values())


def test_the_training_attack_steps_beyond_the_radius_from_a_random_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr(
        "experiments.imagenet.recipes.defenses.fgsm",
        lambda threat, **options: seen.update(options, threat=threat),
    )
    PRESETS["imagenet"].defense(4.0)
    assert seen["threat"] == Linf(4 / 255)
    assert seen["step_size"] == pytest.approx(5 / 255)
    assert seen["start"].__name__ == "uniform"
    assert seen["attack_mode"] == "train"


def test_made_up_images_are_jpegs_of_many_sizes_in_balanced_classes(tmp_path: Path) -> None:
    root = made_up(tmp_path, train=40, test=20)
    written = {file: file.stat().st_mtime_ns for file in root.rglob("*") if file.is_file()}
    assert not any(".tmp" in str(file) for file in written)
    stream = open_stream(NAME, data_dir=root, threads=0)
    assert (stream.images, len(stream.test), stream.num_classes) == (40, 20, CLASSES)
    labels = np.concatenate([b.y for b in stream.batches(0, 0, size=8, batch_size=40)])
    assert np.bincount(labels).tolist() == [4] * CLASSES

    sizes = []
    for index in range(40):
        image = Image.open(io.BytesIO(stream.train[index]["image"]))
        assert image.format == "JPEG"
        sizes += image.size
    assert SIDES[0] <= min(sizes) < 75
    assert 90 < max(sizes) <= SIDES[1]
    assert made_up(tmp_path, train=40, test=20) == root
    assert {file: file.stat().st_mtime_ns for file in written} == written


class Gray:
    """Images of one gray each, brighter with the index."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": np.full((8, 8, 3), 10 * index, np.uint8), "label": 1}


def brightness() -> Model:
    """Class 1 where the mean pixel exceeds 65/255: gray 70 and more."""

    def apply(variables: Variables, x: Any, *, train: bool, key: Any, axes: Any) -> Any:
        del train, key, axes
        margin = x.mean((1, 2, 3)) - variables.params["cut"]
        return jnp.stack([-margin, margin], axis=1), variables.stats

    return Model(lambda key, x: Variables({"cut": jnp.float32(65 / 255)}), apply)


def test_a_stream_is_judged_image_by_image_over_chunks(tmp_path: Path) -> None:
    stream = Stream("gray", "Gray", 2, Gray(4), Gray(12), threads=0)
    setting = dataclasses.replace(PRESETS["made-up"], steps=4, restarts=3, step_size=4.0)
    model = brightness()
    settings = {
        "size": 4,
        "chunk": 8,
        "batch_size": 8,
        "folder": tmp_path,
        "metadata": {},
        "progress": False,
    }
    key, variables = jax.random.key(0), model.init(None, None)

    def judged() -> Report:
        return evaluate_stream(key, model, variables, stream, setting.columns(8.0), **settings)

    report = judged()
    # Gray 70 falls to 62; 80 falls to 72 and stays.
    assert report.clean.tolist() == [False] * 7 + [True] * 5
    assert list(report.attacks) == ["PGD4+1", "PGD4+2", "PGD4+3"]
    for name in report.attacks:
        assert report.attacks[name].robust.tolist() == [False] * 8 + [True] * 4
    assert sorted(p.name for p in tmp_path.iterdir()) == ["chunk00000", "chunk00001"]
    # Each column attacks those left standing: four of a chunk of four, one of eight, then none
    # of it (but one, to keep the report's shapes), and costs nothing for the others.
    assert report.attacks["PGD4+1"].backwards == pytest.approx(4 * 5 / 12)
    assert report.attacks["PGD4+3"].backwards == pytest.approx(4 * 5 / 12)
    again = judged()
    np.testing.assert_array_equal(again.attacks["PGD4+3"].margin, report.attacks["PGD4+3"].margin)
    with pytest.raises(ValueError, match="chunk=8 is no multiple of the batch size 3"):
        evaluate_stream(key, model, variables, stream, {}, **{**settings, "batch_size": 3})


def test_joined_reports_weigh_examples_alike() -> None:
    def report(clean: list[bool], cost: float, first: float, rest: float, batches: int) -> Report:
        mask, timing = np.asarray(clean), Timing(first, rest, batches)
        zeros = np.arange(len(mask), dtype=float)
        attack = AttackReport(mask, mask, zeros, -zeros, cost, 2 * cost, timing)
        return Report(mask, timing, {"pgd": attack}, {"data": "toy"})

    whole = joined([report([True, False, True], 10, 5, 1, 2), report([True], 2, 0.5, 0, 1)])
    assert whole.clean.tolist() == [True, False, True, True]
    assert whole.clean_accuracy == 75
    attack = whole.attacks["pgd"]
    assert attack.norm.tolist() == [0, 1, 2, 0]
    assert (attack.forwards, attack.backwards) == (8, 16)
    assert attack.timing == Timing(5, 1.5, 3)
    with pytest.raises(ValueError, match="holds no test images"):
        joined([])


def test_time_by_phase_is_the_mean_over_seeds() -> None:
    setting = dataclasses.replace(setting_of(Config()), published_minutes=(1, 2, 3))
    phases = tuple(
        dataclasses.replace(p, epochs=n) for p, n in zip(setting.phases, (2, 1, 1), strict=True)
    )
    setting = dataclasses.replace(setting, phases=phases)

    def outcome(seed: int, seconds: list[float]) -> Outcome:
        history = [{"seconds": s, "images_per_second": 100 / s} for s in seconds]
        return Outcome("fgsm", seed, {}, {}, history, {})

    rows = phase_rows(setting, [outcome(0, [10, 20, 5, 4]), outcome(1, [30, 40, 15, 4])])
    assert [row["seconds"] for row in rows] == [50, 10, 4]
    assert rows[1]["images/s"] == pytest.approx((20 + 100 / 15) / 2)
    assert rows[1]["min/epoch"] == pytest.approx(10 / 60)
    assert [row["published min/epoch"] for row in rows] == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": (1, 1)}, "epochs needs a number for each of the 3 phases, got 1 1"),
        ({"sizes": (16, 0, 24)}, "size must be a whole number of at least 1, got 0"),
        ({"radii": (4.0, 4.0)}, r"radii holds a value twice: 4\.0 4\.0"),
        ({"radii": (-1.0,)}, "radius must be finite and above 0, got -1"),
        ({"radii": ()}, "at least one of --radii"),
        ({"seeds": (0, 0)}, "seeds holds a value twice: 0 0"),
        ({"seeds": ()}, "at least one of --seeds"),
        ({"restarts": 0}, "restarts must be a whole number of at least 1, got 0"),
        ({"eval_batch": 5}, "eval_batch=5 does not divide the 32 test images"),
        ({"threads": -1}, "threads must be a whole number of at least 0, got -1"),
        ({"limit": 9}, "number of train images must be a whole number of at least 10, got 9"),
        ({"batch_sizes": (32, 8, 8)}, "24 training images fill no batch of 32"),
        ({"preset": "imagenet", "limit": None}, "'imagenet2012' is not prepared in"),
    ],
)
def test_mistakes_name_the_value(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        main(small(tmp_path, data_dir=tmp_path, **changes))
    assert not any(tmp_path.rglob("metrics.jsonl"))


@pytest.mark.slow
def test_the_command_ends_a_mistake_in_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "experiments.imagenet", "--out", str(tmp_path), "--epochs", "1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.strip() == ("error: epochs needs a number for each of the 3 phases, got 1")
