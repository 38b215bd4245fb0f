"""Robust overfitting on a few digits: the command as a user runs it, and its arithmetic."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common import curves
from experiments.common.long_runs import RECIPES, in_norm, split_off
from experiments.common.options import Options
from experiments.common.probe import probe_of
from experiments.common.recipes import recipe
from experiments.common.rows import Outcome
from experiments.overfitting import methods
from experiments.overfitting.__main__ import main
from experiments.overfitting.config import Config
from experiments.overfitting.grids import METHODS, SEMI, THESIS, Grid, chosen, grid
from experiments.overfitting.parts import part_of
from experiments.overfitting.semi_supervised import predictions
from experiments.overfitting.tables import COLUMNS, figures_of, stopped, table_of
from jaxrobust import data, training
from jaxrobust.data import Split
from jaxrobust.types import Model, Variables

# The experiment itself runs under JAX's defaults: Adam's bias correction promotes dtypes.
pytestmark = pytest.mark.usefixtures("default_promotion")


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", limit=64)


def small(out: Path, **changes) -> Config:
    options = {
        "seeds": (0,),
        "epochs": 2,
        "limit": 64,
        "test_limit": 32,
        "batch_size": 16,
        "out": out,
        "progress": False,
    }
    common = {name: changes.pop(name) for name in list(changes) if hasattr(Options, name)}
    settings = {"methods": ("pgd", "early_stopping", "semi_supervised"), "images": 32}
    return Config(options=Options(**(options | common)), **(settings | changes))


@pytest.mark.slow
def test_the_study_writes_its_tables_and_figures_and_resumes_without_training(tmp_path, capsys):
    table = main(small(tmp_path))
    folder = tmp_path / "digits-quick" / "linf"

    assert [row["method"] for row in table] == ["pgd", "early_stopping", "semi_supervised"]
    assert json.loads((folder / "regularizers.json").read_text())["rows"] == table
    history = [json.loads(line) for line in (folder / "pgd-seed0" / "metrics.jsonl").open()]
    errors = [100 - row["test_pgd_accuracy"] for row in history]
    assert table[0]["robust final"] == pytest.approx(sum(errors) / 2)
    assert table[0]["robust best"] == pytest.approx(min(errors))
    held_out = [row["val_pgd_accuracy"] for row in history]
    assert table[1]["robust final"] == pytest.approx(errors[held_out.index(max(held_out))])
    assert table[1]["robust best"] == table[0]["robust best"]

    # The second table's figures are those of the reports; the last epoch's are the probe's too.
    shown = json.loads((folder / "regularizers_checkpoints.json").read_text())["rows"]
    report = json.loads((folder / "pgd-seed0" / "test_last.json").read_text())
    assert shown[0]["Clean last"] == pytest.approx(100 * np.mean(report["clean"]))
    robust = np.mean(report["attacks"]["PGD10"]["robust"])
    assert shown[0]["PGD10 last"] == pytest.approx(100 * robust)
    assert shown[0]["Clean last"] == pytest.approx(history[-1]["test_clean_accuracy"])

    # 32 labeled images, half of every batch of 16: twice the steps of PGD on the same images.
    config = json.loads((folder / "semi_supervised-seed0" / "config.json").read_text())
    assert config["fit"]["training_images"] == 64
    other = (folder / "semi_supervised-seed0" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(other[-1])["step"] == 2 * history[-1]["step"] == 8
    assert "32 pseudo-labels" in capsys.readouterr().out
    for name in ("regularizers_curves", "regularizers_robust"):
        assert (folder / f"{name}.png").stat().st_size > 1000

    trained = [path.read_text() for path in sorted(folder.glob("*/metrics.jsonl"))]
    assert len(trained) == 3
    assert main(small(tmp_path)) == table
    again = [path.read_text() for path in sorted(folder.glob("*/metrics.jsonl"))]
    assert again == trained  # timings included: no epoch ran again


def history_of(robust, standard, held_out):
    """Epochs with those test errors and held-out accuracies."""
    return [
        {
            "epoch": i + 1,
            "test_pgd_accuracy": 100 - r,
            "test_clean_accuracy": 100 - s,
            "fitted_pgd_accuracy": 90.0,
            "fitted_clean_accuracy": 95.0,
            "val_pgd_accuracy": v,
        }
        for i, (r, s, v) in enumerate(zip(robust, standard, held_out, strict=True))
    ]


HISTORY = history_of(
    robust=[60, 40, 44, 50, 51, 52, 53, 54],
    standard=[30, 25, 20, 21, 14, 14, 15, 17],
    held_out=[10, 30, 35, 20, 20, 20, 35, 20],
)


def test_final_is_the_mean_of_five_epochs_and_best_the_lowest_robust_test_error():
    found = figures_of(HISTORY)
    assert found["robust final"] == pytest.approx((50 + 51 + 52 + 53 + 54) / 5)
    assert (found["robust best"], found["standard best"]) == (40, 25)
    assert found["standard final"] == pytest.approx((21 + 14 + 14 + 15 + 17) / 5)
    assert found["robust diff"] == pytest.approx(12)
    assert found["standard diff"] == pytest.approx(16.2 - 25)


def test_early_stopping_asks_the_images_held_out_alone():
    assert stopped(HISTORY) == 2  # the first of two equal epochs; test error is lowest at 1
    found = figures_of(HISTORY, stop=True)
    assert (found["robust final"], found["standard final"]) == (44, 20)
    assert (found["robust best"], found["robust diff"]) == (40, 4)


def outcome(method, history, seed=0):
    return Outcome(method, seed, {}, {}, history, {})


def test_a_row_averages_seeds_beside_the_published_figures():
    other = history_of([42] * 8, [20] * 8, [1] * 8)
    outcomes = [outcome("pgd", HISTORY), outcome("pgd", other, 1), outcome("l1 0.1", other)]
    shown = {"pgd": ("pgd", False), "stop": ("pgd", True), "l1 0.1": ("l1 0.1", False)}
    first, second, third = table_of(shown, outcomes, {"pgd": (53.9, None)})
    assert first["robust final"] == pytest.approx((52 + 42) / 2)
    assert first["robust final std"] == pytest.approx(10 / 2**0.5)
    assert first[f"published {COLUMNS}"] == "53.9 / -"
    assert second["robust final"] == pytest.approx((44 + 42) / 2)
    assert (third["seeds"], third["robust final std"]) == (1, None)


def test_the_probe_counts_the_images_of_a_linear_classifier_that_no_point_of_the_ball_fools():
    # Two classes, logits +-w.(x - 1/2): robust exactly where the margin exceeds eps |w|_1.
    w = np.asarray([3.0, -1.0, 2.0])

    def apply(variables, x, *, train, key, axes):
        score = (x.reshape(len(x), -1) - 0.5) @ variables.params
        return jnp.stack([score, -score], axis=-1), ()

    model = Model(lambda key, x: Variables(jnp.asarray(w)), apply)
    x = np.random.default_rng(0).integers(60, 196, (50, 1, 3, 1)).astype(np.uint8)
    score = (x.reshape(50, 3) / 255 - 0.5) @ w
    y = (score < 0).astype(np.int32)
    y[:5] = 1 - y[:5]
    settings = dataclasses.replace(
        RECIPES["digits", "quick"], epsilon=0.05, eval_step_size=0.025, eval_steps=5
    )
    found = probe_of(settings, {"test": Split(x, y)})(model, Variables(jnp.asarray(w, jnp.float32)))
    robust = (np.abs(score) > 0.05 * np.abs(w).sum()) & (np.arange(50) >= 5)
    assert 10 < robust.sum() < 40
    assert found == {
        "test_clean_accuracy": pytest.approx(90.0),
        "test_pgd_accuracy": pytest.approx(100 * robust.mean()),
    }
    assert (predictions(model, Variables(jnp.asarray(w, jnp.float32)), x) == (score < 0)).all()


def test_the_images_left_over_are_the_unlabeled_ones(digits):
    kept, pool = split_off(digits, 40)
    assert (kept.train.size, pool.size) == (40, 24)
    np.testing.assert_array_equal(np.concatenate([kept.train.x, pool.x]), digits.train.x)
    np.testing.assert_array_equal(np.concatenate([kept.train.y, pool.y]), digits.train.y)
    assert split_off(digits, None)[1].size == 0
    assert SEMI not in chosen(None, 0)
    assert SEMI in chosen(None, 24)


def test_recipes_and_grids_carry_the_thesis_settings(digits):
    paper = recipe("cifar10", "paper", RECIPES)
    assert (paper.model, paper.epsilon, paper.step_size, paper.steps) == (
        "preact_resnet18", 8 / 255, 2 / 255, 10,
    )  # fmt: skip
    assert (paper.epochs, paper.learning_rate, paper.weight_decay) == (200, 0.1, 5e-4)
    assert (paper.batch_size, paper.validation, paper.schedule) == (128, 1000, "piecewise")
    assert curves.decays(paper) == (100, 150)
    l2 = recipe("cifar100", "paper", in_norm("l2"))
    assert (l2.norm, l2.epsilon, l2.step_size) == ("l2", 128 / 255, 15 / 255)
    assert grid(Grid(l1=(1.0,)), "paper", digits) == dataclasses.replace(THESIS, l1=(1.0,))
    # 14 of 32 pixels is 3.5 of 8.
    assert grid(Grid(), "quick", digits).cutout == (4,)
    assert curves.decays(dataclasses.replace(paper, schedule="cosine")) == ()


def test_every_part_makes_its_rows(tmp_path, digits):
    settings = RECIPES["digits", "quick"]

    def rows_of(part, **changes):
        config = small(tmp_path, part=part, **changes)
        made = part_of(config, settings, digits, Split(*digits.train), lambda: digits)
        return {method.name: method for method in made.methods}, list(made.shown)

    made, shown = rows_of("regularizers", methods=METHODS)
    assert shown[-2:] == ["early_stopping", "semi_supervised"]
    assert sorted(made) == sorted(set(shown) - {"early_stopping"})
    assert made["l1 5e-05"].changes == {"l1": 5e-5}
    assert made["l2 0.05"].changes == {"weight_decay": 0.05, "decay_all": False}
    assert made["semi_supervised"].dataset is digits
    assert rows_of("regularizers", methods=("early_stopping",))[1] == ["early_stopping"]

    made, _ = rows_of("schedules")
    assert made["multiple_decay"].changes["epochs"] == 2.5 * settings.epochs
    assert made["cyclic"].changes["learning_rate"] == 2 * settings.learning_rate
    for method in made.values():  # every name and option is one of the library's
        own = method.recipe(settings)
        rate = training.schedule(own.schedule, own.learning_rate, 100, own.schedule_options)
        assert float(rate(20)) > 0
    made, _ = rows_of("trades")
    assert list(made) == [
        f"{network}_{rate}"
        for network in ("mlp", "wong_wide")
        for rate in ("trades_rate", "standard_rate")
    ]
    short, long = (
        made[f"wong_wide_{rate}"].recipe(settings) for rate in ("trades_rate", "standard_rate")
    )
    assert (short.epochs, long.epochs) == (20, 40)
    assert (short.model_options, long.model) == ({"width": 2}, "wong_wide")
    # thesis, section 4.3.8: /10 at 75 and 90 of 100 epochs, or at 100 and 150 of 200
    for own, decays in ((short, (15, 18)), (long, (20, 30))):
        rate = training.schedule(own.schedule, 1.0, own.epochs, own.schedule_options)
        for i, at in enumerate(decays):
            assert float(rate(at - 1)) == pytest.approx(0.1**i)
            assert float(rate(at + 1)) == pytest.approx(0.1 ** (i + 1))
    # Names without a number: no family of a hyperparameter to draw.
    assert curves.hyperparameters([{"method": name} for name in made]) == {}
    made, _ = rows_of("widths", widths=(3,))
    assert made["width 3"].changes == {"model": "wong_wide", "model_options": {"width": 3}}
    made, _ = rows_of("radii", radii=("1/20",))
    changes = made["radius 0.05"].changes
    assert changes["step_size"] / changes["epsilon"] == settings.step_size / settings.epsilon
    made, _ = rows_of("sizes")
    assert [row.dataset.train.size for row in made.values()] == [16, 32, 64]


def test_rows_reflect_where_the_recipe_crops(digits):
    paper = RECIPES["cifar10", "paper"]
    defense = methods.by_pgd(paper, digits)
    plain, cut = methods.reflected(
        [*methods.penalties("l1", [0.1], defense), *methods.cutouts([4], digits, defense)], paper
    )
    assert plain.changes == {"l1": 0.1, "augment": False}
    assert plain.augment is methods.REFLECT
    # Reflected crops of a white image stay white; the square comes on top.
    white, key = jnp.ones((8, 8, 1)), jax.random.key(0)
    assert float(plain.augment(key, white).sum()) == 64
    assert float(cut.augment(key, white).sum()) == 64 - 16
    assert methods.reflected([plain], RECIPES["digits", "quick"]) == [plain]


def test_figures_show_the_rows(digits):
    outcomes = [outcome("pgd", HISTORY), outcome("l1 0.1", HISTORY), outcome("l1 10", HISTORY)]
    settings = dataclasses.replace(RECIPES["digits", "quick"], epochs=8)
    panels = curves.learning_curves(outcomes, marks=curves.decays(settings)).axes
    assert [p.get_title() for p in panels if p.get_visible()] == ["pgd", "l1 0.1", "l1 10"]
    lines = {line.get_label(): line for line in panels[0].lines}
    np.testing.assert_allclose(lines["test robust"].get_ydata(), [60, 40, 44, 50, 51, 52, 53, 54])
    np.testing.assert_allclose(lines["train standard"].get_ydata(), [5.0] * 8)
    marks = [line.get_xdata()[0] for line in panels[0].lines[4:]]
    assert marks == [4, 6]

    shown = {name: (name, False) for name in ("pgd", "l1 10", "l1 0.1")}
    drawn = curves.hyperparameters(table_of(shown, outcomes, {}))
    assert list(drawn) == ["l1"]
    (panel,) = drawn["l1"].axes
    assert panel.get_xscale() == "log"
    assert list(panel.lines[0].get_xdata()) == [0.1, 10]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ("cutoff",)}, "unknown method 'cutoff'; did you mean 'cutout'?"),
        ({"methods": ("pgd", "pgd")}, "methods holds a value twice: pgd pgd"),
        ({"methods": ()}, "--methods is empty"),
        ({"images": 65}, "images=65, but Digits .8x8. has 64 to train on"),
        ({"images": 64}, "semi_supervised needs unlabeled images"),
        ({"images": 0}, "images must be a whole number of at least 1, got 0"),
        ({"unlabeled": 0}, "semi_supervised needs unlabeled images"),
        ({"probe_images": 0}, "probe_images must be a whole number"),
        (
            {"methods": ("pgd", "cutout"), "grid": Grid(cutout=(9,))},
            "cutout of 9 pixels does not fit images of 8",
        ),
        ({"part": "schedules", "schedules": ("steps",)}, "unknown schedule 'steps'"),
        ({"part": "radii", "radii": ("a",)}, "radii must be a number such as 0.3 or 8/255"),
        ({"part": "widths", "widths": (0,)}, "width must be a whole number of at least 1"),
        ({"part": "sizes", "sizes": (99,)}, "images=99"),
    ],
)
def test_mistakes_name_the_value_before_anything_is_trained(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        main(small(tmp_path, **changes))
    assert not list(tmp_path.rglob("metrics.jsonl"))
