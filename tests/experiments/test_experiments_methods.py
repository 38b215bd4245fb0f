"""The table of all methods, and what rows, judges and tables of every study share."""

import dataclasses
import json

import chex
import numpy as np
import pytest

from experiments.common.defense_menu import METHODS, make_methods, union
from experiments.common.options import Options
from experiments.common.recipes import DIGITS, recipe
from experiments.common.rows import Judge, Method
from experiments.common.runner import network, run_rows
from experiments.common.tables import summarize
from experiments.methods.__main__ import main
from experiments.methods.config import RECIPES, Config
from experiments.methods.methods import rows_of
from experiments.methods.published import SOURCES
from jaxrobust import attacks, data, defenses, training
from jaxrobust.defenses import Defense
from jaxrobust.threats import Linf

pytestmark = pytest.mark.usefixtures("default_promotion")


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", limit=64)


@pytest.fixture(scope="module")
def small():
    return dataclasses.replace(
        DIGITS, model="mlp", steps=2, epochs=2, batch_size=32, validation=0, eval_steps=2
    )


def test_every_name_makes_a_method(digits, small):
    rows = make_methods(METHODS, small, digits)
    levels = len(small.rho)
    assert [row.name.split()[0] for row in rows] == [
        name for name in METHODS for _ in range(levels if "dale" in name else 1)
    ]
    assert all(isinstance(row.defense, Defense) for row in rows)
    assert SOURCES.keys() == set(METHODS)
    assert [ball.radius for ball in union(small).members] == list(small.radii)


def test_free_has_as_many_steps_as_the_others(digits):
    settings = dataclasses.replace(RECIPES["digits", "quick"], epochs=16)
    free, pgd = rows_of(Config(methods=("free", "pgd")), settings, digits)
    assert free.recipe(settings).epochs * free.defense.replays == 16
    assert pgd.recipe(settings) == settings


@pytest.mark.slow
def test_the_command_trains_and_judges(tmp_path):
    options = Options(
        seeds=(0, 1), epochs=2, limit=64, model="mlp", autoattack=0, out=tmp_path, progress=False
    )
    rows = main(Config(options=options, methods=("erm", "free"), steps=2))
    assert [row["method"] for row in rows] == ["erm", "free"]
    content = json.loads((tmp_path / "digits-quick" / "table.json").read_text())
    assert content["rows"] == rows
    assert content["script"] == "methods"
    assert (tmp_path / "digits-quick" / "free-seed1" / "metrics.jsonl").is_file()


@pytest.mark.slow
def test_a_judge_sees_last_and_best_epochs_and_a_suite_of_few_images(tmp_path, small):
    digits = data.load("digits", limit=64, validation=32)
    settings = dataclasses.replace(small, validation=32)
    weak, strong = (attacks.fgsm(Linf(eps)) for eps in (0.1, 0.4))
    judge = Judge({"FGSM": weak}, {"a": weak, "b": strong}, 16, ("last", "best"))
    method = Method("erm", defenses.erm(), changes={"learning_rate": 0.01})
    options = {
        "judge": judge, "seeds": (0,), "folder": tmp_path, "identity": {}, "progress": False
    }  # fmt: skip
    (outcome,) = run_rows([method], settings, digits, **options)

    for select in ("last", "best"):
        whole, suite = outcome.reports[select], outcome.suites[select]
        assert (whole.count, suite.count) == (64, 16)
        # A suite is judged by what withstands all of it.
        assert outcome.accuracies[f"AutoAttack (16) {select}"] == pytest.approx(
            100 * np.mean(suite.attacks["b"].robust)
        )
        assert outcome.accuracies[f"FGSM {select}"] == whole.attacks["FGSM"].accuracy
    best = training.saved_variables(tmp_path / "erm-seed0", training.BEST)
    chex.assert_trees_all_equal(best["params"], outcome.trained["best"].params)
    held = json.loads((tmp_path / "erm-seed0" / "config.json").read_text())
    assert held["recipe"]["learning_rate"] == 0.01

    (row,) = summarize([outcome], {"erm": (99.0, None)}, columns="clean / PGD")
    assert row["published clean / PGD"] == "99 / -"
    assert "nu" not in row


@pytest.mark.slow
def test_a_row_may_train_on_other_data_and_is_judged_on_the_studys(tmp_path, digits, small):
    fewer = dataclasses.replace(digits, train=data.Split(digits.train.x[:32], digits.train.y[:32]))
    rows = [Method("erm", defenses.erm()), Method("few", defenses.erm(), dataset=fewer)]
    outcomes = run_rows(
        rows, small, digits,
        judge=Judge({}), seeds=(0,), folder=tmp_path, identity={}, progress=False,
    )  # fmt: skip
    assert [o.history[-1]["step"] for o in outcomes] == [4, 2]
    assert [o.report.count for o in outcomes] == [64, 64]


def test_rows_with_one_network_share_it(digits):
    assert network("mlp", "float32", digits) is network("mlp", "float32", digits)
    wide = network("mlp", "float32", digits, {"widths": (8,)})
    assert wide is not network("mlp", "float32", digits)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ("pgdd",)}, "unknown method 'pgdd'; did you mean 'pgd'?"),
        ({"methods": ("erm", "erm")}, "methods holds a value twice: erm erm"),
        ({"options": Options(seeds=())}, "at least one of --seeds"),
        ({"options": Options(preset="paper")}, "unknown preset 'paper'"),
        ({"options": Options(test_limit=0)}, "test_limit must be a whole number of at least 1"),
    ],
)
def test_mistakes_name_the_value(changes, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        main(Config(**changes))


def test_options_change_the_recipe():
    options = Options(epochs=3, dtype="bfloat16")
    assert options.recipe(RECIPES, steps=None) == recipe(
        "digits", "quick", RECIPES, epochs=3, dtype="bfloat16"
    )
