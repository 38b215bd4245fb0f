"""The BETA experiment on a few digits: the command as a user runs it, and its arithmetic."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.beta import tables
from experiments.beta.__main__ import main
from experiments.beta.config import BETA, Config
from experiments.beta.methods import METHODS, columns, methods
from experiments.beta.plots import by_epoch
from experiments.common.options import Options
from experiments.common.recipes import recipe
from experiments.common.rows import Outcome
from experiments.common.runner import network
from jaxrobust import attacks, data
from jaxrobust.evaluation import evaluate

# The experiment itself runs under JAX's defaults: Adam's bias correction promotes dtypes.
pytestmark = pytest.mark.usefixtures("default_promotion")


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", limit=32)


def small(out: Path, **changes) -> Config:
    options = {
        "seeds": (0, 1),
        "epochs": 2,
        "limit": 64,
        "test_limit": 32,
        "batch_size": 16,
        "autoattack": 0,
        "out": out,
        "progress": False,
    }
    common = {name: changes.pop(name) for name in list(changes) if hasattr(Options, name)}
    settings = {"methods": ("beta5",), "images": 32}
    return Config(options=Options(**(options | common)), **(settings | changes))


@pytest.mark.slow
def test_the_study_writes_its_table_and_figure_and_resumes_without_training(tmp_path):
    table = main(small(tmp_path))
    folder = tmp_path / "digits-quick"

    assert [row["method"] for row in table] == ["beta5 best", "beta5 last"]
    assert json.loads((folder / "table.json").read_text())["rows"] == table
    assert not (folder / "table2.json").exists()
    for row in table:
        select = row["method"].split()[1]
        for column in ("PGD40", "BETA10"):
            robust = []
            for seed in (0, 1):
                report = json.loads((folder / f"beta5-seed{seed}/test_{select}.json").read_text())
                robust.append(100 * np.mean(report["attacks"][column]["robust"]))
            assert row[column] == pytest.approx(np.mean(robust))
    assert (folder / "figure1.png").stat().st_size > 1000

    history = folder / "beta5-seed0" / "metrics.jsonl"
    trained = history.read_text()
    names = json.loads(trained.splitlines()[0])
    assert {"fitted_pgd_accuracy", "test_pgd_accuracy", "test_clean_accuracy"} <= names.keys()
    assert main(small(tmp_path)) == table
    assert history.read_text() == trained  # timings included: no epoch ran again


def test_rows_and_recipes_carry_the_papers_settings(tmp_path, digits):
    paper = recipe("cifar10", "paper", BETA)
    assert (paper.model, paper.epsilon, paper.step_size, paper.steps) == (
        "resnet18", 8 / 255, 2 / 255, 10,
    )  # fmt: skip
    assert (paper.beta, paper.autoattack, paper.schedule) == (5.0, 10_000, "piecewise")
    judged = columns(paper)
    steps = {name: attack.settings.get("steps") for name, attack in judged.items()}
    assert (steps["PGD10"], steps["PGD40"]) == (10, 40)
    climb = judged["BETA10"].settings["attack"].settings
    assert (climb["steps"], climb["step_size"]) == (10, 2 / 255)
    config = small(tmp_path, methods=METHODS, mu=3.0)
    names = [row.name for row in methods(config, BETA["digits", "quick"], digits)]
    assert names == [*METHODS[:-1], "sbeta mu=3"]


def test_table_2_attacks_with_thirty_steps_of_a_quarter_radius():
    found = tables.aimed_attacks(recipe("cifar10", "paper", BETA))
    inner = {name: attack.settings["attack"].settings for name, attack in found.items()}
    assert {s["steps"] for s in inner.values()} == {30}
    assert {inner[n]["step_size"] for n in inner if n != "APGD-T"} == {2 / 255}
    assert found["APGD-T"].settings["targets"] == 9
    optimizers = {inner[name]["optimizer"] for name in inner if name != "APGD-T"}
    assert len(optimizers) == 4


def test_the_own_optimizers_step_as_they_say():
    threat, gradient = None, jnp.asarray([4.0, -0.5])
    for make, expected in ((tables.sgd, -0.1 * gradient), (tables.adam, [-0.1, 0.1])):
        optimizer = make(jax.random.key(0), threat, step_size=0.1)
        step, _ = optimizer.update(gradient, optimizer.init(gradient))
        np.testing.assert_allclose(step, expected, rtol=1e-4)


def outcome_of(digits, settings, seed, suite_images):
    """An untrained network, judged by FGSM in two radii as its two epochs."""
    model = network(settings.model, settings.dtype, digits)
    variables = model.init(jax.random.key(seed), jnp.zeros((1, *digits.shape)))

    def report(radius, images):
        attack = attacks.fgsm(dataclasses.replace(settings, epsilon=radius).threat)
        split = type(digits.test)(digits.test.x[:images], digits.test.y[:images])
        key = jax.random.key(seed)
        return evaluate(
            key, model, variables, split, {"FGSM": attack}, batch_size=32, progress=False
        )

    reports = {"best": report(0.01, 32), "last": report(0.3, 32)}
    suites = {"best": report(0.01, suite_images), "last": report(0.3, suite_images)}
    trained = dict.fromkeys(reports, variables)
    return Outcome("pgd", seed, reports, suites, [{}], trained)


def test_tables_pair_each_epoch_with_its_own_reports(digits, tmp_path, monkeypatch):
    settings = dataclasses.replace(BETA["digits", "quick"], autoattack=16)
    outcomes = [outcome_of(digits, settings, seed, 16) for seed in (0, 1)]
    split = by_epoch(outcomes)
    assert [(o.method, o.seed) for o in split] == [
        ("pgd best", 0), ("pgd best", 1), ("pgd last", 0), ("pgd last", 1),
    ]  # fmt: skip
    assert split[2].report is outcomes[0].reports["last"]
    assert set(split[2].accuracies) == {"Clean", "FGSM", "AutoAttack (16)"}

    # The gap is BETA's accuracy minus AutoAttack's, here both a step of FGSM in other radii.
    weak = attacks.fgsm(dataclasses.replace(settings, epsilon=0.0).threat)
    monkeypatch.setattr(tables, "aimed_attacks", lambda recipe: {"BETA": weak})
    (row,) = tables.table_2(
        outcomes, settings, digits, select="last", folder=tmp_path, progress=False
    )
    clean = np.mean([o.suites["last"].clean_accuracy for o in outcomes])
    broken = np.mean([o.suites["last"].worst_case_accuracy for o in outcomes])
    assert row["BETA"] == pytest.approx(clean)
    assert row["gap"] == pytest.approx(clean - broken)
    nothing = dataclasses.replace(settings, autoattack=0)
    assert not tables.table_2(
        outcomes, nothing, digits, select="last", folder=tmp_path, progress=False
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ("beta7",)}, "unknown method 'beta7'; did you mean 'sbeta'"),
        ({"methods": ("pgd", "pgd")}, "methods holds a value twice: pgd pgd"),
        ({"methods": ()}, "at least one of --methods"),
        ({"methods": ("sbeta",), "mu": 0.0}, "mu must be finite and above 0"),
        ({"images": 65}, "images=65, but Digits .8x8. has 64 to train on"),
        ({"probe_images": -1}, "probe_images must be a whole number of at least 1, got -1"),
    ],
)
def test_mistakes_name_the_value(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        main(small(tmp_path, **changes))
