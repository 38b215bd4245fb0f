"""FOSC's experiments on a few digits: the command as a user runs it, and its measurements."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from training.training_cases import linear

from experiments.common.options import Options
from experiments.common.per_image import per_image
from experiments.common.recipes import recipe
from experiments.fosc import plots, sweeps
from experiments.fosc.__main__ import main
from experiments.fosc.config import Config, checked
from experiments.fosc.measure import (
    PREFIX,
    Convergence,
    convergence,
    correlation,
    distribution,
    groups,
    path,
    shares,
)
from experiments.fosc.methods import dynamic_row, rows_of, surrogate_row
from experiments.fosc.recipes import RECIPES, columns
from jaxrobust import attacks, data
from jaxrobust.data import Split
from jaxrobust.threats import Linf
from jaxrobust.types import Variables


def small(out: Path, **changes) -> Config:
    options = {
        "seeds": (0, 1),
        "epochs": 2,
        "limit": 300,
        "test_limit": 64,
        "batch_size": 32,
        "model": "mlp",
        "out": out,
        "progress": False,
    }
    common = {name: changes.pop(name) for name in list(changes) if hasattr(Options, name)}
    settings = {"methods": ("pgd", "dynamic"), "groups": 4, "images": 3}
    return Config(options=Options(**(options | common)), **(settings | changes))


@pytest.mark.slow
@pytest.mark.usefixtures("default_promotion")
def test_the_study_writes_its_tables_and_figures_and_resumes_without_training(tmp_path, capsys):
    tables = main(small(tmp_path))
    folder = tmp_path / "digits-quick"
    assert list(tables) == ["table", "stages", "black_box", "strength"]
    for name, rows in tables.items():
        assert json.loads((folder / f"{name}.json").read_text())["rows"] == rows
    for row in tables["table"]:
        for column in ("FGSM", "PGD10", "PGD20", "C&W"):
            accuracies = []
            for seed in (0, 1):
                run = folder / f"{row['method']}-seed{seed}"
                report = json.loads((run / "test_last.json").read_text())
                mask = report["attacks"][column]["robust"]
                accuracies.append(100 * sum(mask) / len(mask))
            assert row[column] == pytest.approx(sum(accuracies) / 2)

    # The histograms of the history, both seeds together, are those of the table.
    for row in tables["stages"]:
        histories = [
            (folder / f"{row['method']}-seed{seed}" / "metrics.jsonl").read_text().splitlines()
            for seed in (0, 1)
        ]
        logged = [json.loads(lines[row["epoch"] - 1]) for lines in histories]
        assert row["q50"] == pytest.approx(np.mean([m[f"{PREFIX}q50"] for m in logged]))
        for metrics in logged:
            assert shares(metrics).sum() == pytest.approx(1)
    assert [row["epoch"] for row in tables["stages"]] == [1, 2, 1, 2]

    for row in tables["black_box"]:
        file = folder / "surrogate" / f"{row['method']}-from-surrogate-1.json"
        assert json.loads(file.read_text())["attacks"].keys() == {"FGSM", "PGD10", "PGD20", "C&W"}
    # The surrogate has a seed of its own.
    assert (folder / "surrogate" / "pgd-mlp-seed2" / "metrics.jsonl").is_file()
    for name in ("figure1a_strength", "figure1b_paths", "figure5_stages"):
        assert (folder / f"{name}.png").stat().st_size > 1000
    assert "correlation of the groups' FOSC" in " ".join(capsys.readouterr().out.split())

    histories = {p: p.read_text() for p in folder.rglob("metrics.jsonl")}
    assert len(histories) == 5
    assert main(small(tmp_path)) == tables
    assert {p: p.read_text() for p in histories} == histories  # timings included


def test_recipes_and_rows_carry_the_papers_settings(tmp_path):
    mnist, cifar = (recipe(name, "paper", RECIPES) for name in ("mnist", "cifar10"))
    assert (mnist.model, mnist.epsilon, mnist.step_size, mnist.steps) == (
        "fosc_mnist", 0.3, 0.075, 10,
    )  # fmt: skip
    assert (cifar.model, cifar.epochs, cifar.step_size) == ("fosc_cifar", 120, 2 / 255)
    assert (cifar.schedule_options["at"], cifar.weight_decay) == ((0.5, 100 / 120), 1e-4)
    cw = columns(mnist)["C&W"].settings
    assert (cw["steps"], cw["step_size"]) == (30, 0.075)

    digits = data.load("digits", limit=64)
    config = small(tmp_path, methods=("erm", "pgd", "curriculum", "dynamic"), model=None)
    assert [r.name for r in rows_of(config, checked(config), digits)] == list(config.methods)
    changed = small(tmp_path, c_max=0.1, until=0.6)
    assert dynamic_row(changed, checked(changed)).name == "dynamic c_max=0.1 until=0.6"
    assert surrogate_row(config, checked(config), digits).name == "pgd digits_cnn"
    paper = small(tmp_path, dataset="cifar10", preset="paper", model=None)
    row = surrogate_row(paper, cifar, digits)
    assert (row.name, row.recipe(cifar).model) == ("pgd resnet50", "resnet50")


DRAW = np.random.default_rng(0)
X = DRAW.uniform(0.3, 0.7, (6, 4, 4, 1)).astype(np.float32)
Y = DRAW.integers(0, 2, 6).astype(np.int32)
W = DRAW.normal(size=(16, 2)).astype(np.float32)
VARIABLES = Variables({"w": jnp.asarray(W), "b": jnp.zeros(2)})
EPS, STEP = 0.1, 0.04


def test_convergence_along_the_path_of_a_linear_classifier_is_the_closed_form():
    pgd = attacks.fosc_stopped_pgd(Linf(EPS), step_size=STEP, steps=0)
    measure, key = Partial(path, pgd, jnp.arange(8)), jax.random.key(3)
    found = per_image(measure, linear(2), VARIABLES, Split(X, Y), key=key, batch_size=4)
    assert found.fosc.shape == (6, 8)
    keys = attacks.example_keys(key, jnp.arange(6))
    # An attack draws its start from the first half of its key.
    starts = [attacks.uniform(jax.random.split(k)[0], Linf(EPS), jnp.asarray(x))
              for k, x in zip(keys, X, strict=True)]  # fmt: skip
    for i, start in enumerate(starts):
        clean, z, label = X[i].ravel(), np.asarray(start).ravel(), Y[i]
        rise = W[:, 1 - label] - W[:, label]
        for step in range(8):
            wrong = 1 / (1 + np.exp(-(z @ rise)))
            gradient = wrong * rise
            value = EPS * np.abs(gradient).sum() - (z - clean) @ gradient
            np.testing.assert_allclose(found.fosc[i, step], value, atol=1e-5)
            np.testing.assert_allclose(found.loss[i, step], -np.log(1 - wrong), rtol=1e-4)
            assert found.correct[i, step] == (z @ rise < 0)
            z = np.clip(z + STEP * np.sign(rise), clean - EPS, clean + EPS)
    # 2 EPS / STEP steps reach the corner, where the attack has converged.
    np.testing.assert_allclose(found.fosc[:, 6:], 0, atol=1e-5)
    assert (found.fosc[:, 0] > 0.01).all()

    plain = attacks.pgd(Linf(EPS), step_size=STEP, steps=3, keep="last")
    last = per_image(
        Partial(convergence, plain), linear(2), VARIABLES, Split(X, Y), key=key, batch_size=4
    )
    np.testing.assert_allclose(last.fosc, found.fosc[:, 3], atol=1e-6)
    # No pixel here comes near the box.
    np.testing.assert_allclose(last.boxed, last.fosc, atol=1e-5)
    images = Split(np.where(X > 0.5, 0.98, 0.02).astype(np.float32), Y)
    edge = per_image(measure, linear(2), VARIABLES, images, key=key, batch_size=4)
    np.testing.assert_allclose(edge.boxed[:, 6:], 0, atol=1e-5)
    assert (edge.fosc[:, 6:] > 0.001).all()


def test_the_distribution_counts_every_image_once():
    # Parts of .025 over [0, .5]; rounding may leave FOSC a little below 0.
    found = distribution(np.asarray([-1e-8, 0.01, 0.03, 0.26, 3.0], np.float32))
    expected = np.zeros(20)
    expected[[0, 1, 10, 19]] = 0.4, 0.2, 0.2, 0.2
    np.testing.assert_allclose(shares({PREFIX + k: v for k, v in found.items()}), expected)
    assert found["q50"] == pytest.approx(0.03)
    assert found["mean"] == pytest.approx(0.66)


def test_groups_are_in_order_of_fosc():
    found = Convergence(
        fosc=np.asarray([0.4, 0.1, 0.3, 0.2, 0.5]),
        boxed=np.asarray([0.1, 0.0, 0.3, 0.0, 0.5]),
        loss=np.asarray([4.0, 1.0, 3.0, 2.0, 5.0]),
        correct=np.asarray([True, False, True, False, True]),
    )
    rows = groups(found, 2)
    assert [row["FOSC"] for row in rows] == pytest.approx([0.2, 0.45])
    assert [row["FOSC in box"] for row in rows] == pytest.approx([0.1, 0.3])
    assert [row["loss"] for row in rows] == pytest.approx([2.0, 4.5])
    assert [row["accuracy"] for row in rows] == pytest.approx([100 / 3, 100.0])
    assert correlation(rows, "loss") == pytest.approx(1.0)
    assert np.isnan(correlation([{**row, "loss": 1.0} for row in rows], "loss"))
    with pytest.raises(ValueError, match="5 images do not fill 6 groups"):
        groups(found, 6)


def test_drawings_hold_their_data():
    rows = [
        {"FOSC": 0.1, "accuracy": 20.0, "loss": 2.0},
        {"FOSC": 0.3, "accuracy": 60.0, "loss": 1},
    ]
    accuracy, loss = plots.strength(rows).axes
    np.testing.assert_allclose(accuracy.lines[0].get_xydata(), [[0.1, 20], [0.3, 60]])
    np.testing.assert_allclose(loss.lines[0].get_ydata(), [2, 1])
    values = np.arange(6.0).reshape(2, 3)
    fosc, _ = plots.paths(Convergence(values, values, 2 * values, values > 0)).axes
    np.testing.assert_allclose(fosc.lines[1].get_xydata(), [[0, 3], [1, 4], [2, 5]])
    (panel,) = plots.distributions({"pgd": {3: np.asarray([0.25, 0.75])}}, 0.5).axes
    np.testing.assert_allclose(panel.patches[0].get_data().values, [25, 75])
    np.testing.assert_allclose(panel.patches[0].get_data().edges, [0, 0.25, 0.5])


def test_rows_of_figure_3_train_with_small_steps_and_with_fgsm_at_first(tmp_path):
    digits = data.load("digits", limit=64)
    config = small(tmp_path, methods=("pgd", "pgd_small", "fgsm_pgd"), weak=0.25)
    rows = rows_of(config, checked(config), digits)
    assert [row.name for row in rows] == list(config.methods)
    assert config.weak != Config().weak == pytest.approx(20 / 120)
    with pytest.raises(ValueError, match="weak"):
        checked(small(tmp_path, weak=1.5))


def test_settings_of_figure_2_are_pgds_of_those_steps():
    family = sweeps.settings_of((1.0, 0.25), (10, 40))
    assert [one.name for one in family["size"]] == ["20 steps of 1 eps", "20 steps of 0.25 eps"]
    assert [one.count for one in family["number"]] == [10, 40]
    settings = RECIPES["mnist", "paper"]
    attack = family["number"][1].attack(settings, keep="last").settings
    assert attack["steps"] == 40
    assert float(attack["step_size"]) == pytest.approx(0.3 / 6)
    assert attack["threat"] == Linf(0.3)


def test_radii_take_their_steps_along_and_a_run_is_read_at_its_own(tmp_path):
    settings = RECIPES["digits", "quick"]
    digits = data.load("digits", limit=64)
    config = small(tmp_path, methods=("pgd",), model=None)
    made = sweeps.trained_at(config, settings, digits, (0.1, 0.2))
    assert [row.name for row in made] == ["pgd at 0.1", "pgd at 0.2"]
    own = made[0].recipe(settings)
    assert (own.epsilon, own.step_size) == (0.1, settings.step_size / 2)
    columns = sweeps.radius_columns(settings, (0.1,))
    assert float(columns["eps 0.1"].settings["step_size"]) == pytest.approx(0.025)


@pytest.mark.slow
@pytest.mark.usefixtures("default_promotion")
def test_sweeps_write_their_tables_and_figures(tmp_path):
    config = small(
        tmp_path, part=("steps", "radii"), methods=("pgd",), seeds=(0,), epochs=1,
        sizes=(0.5, 0.25), counts=(10,), radii=("0.1", "0.2"),
    )  # fmt: skip
    tables = main(config)
    assert list(tables) == ["tested_radii", "steps_size", "steps_number", "trained_radii"]
    # larger balls hold the smaller ones, and more of the same steps are no weaker here
    (row,) = tables["tested_radii"]
    assert row["eps 0.1"] >= row["eps 0.2"]
    (own,) = tables["trained_radii"]
    # the recipe's radius is the second: the same run by another name
    assert own["eps 0.2"] == row["eps 0.2"]
    assert [r["method"] for r in tables["steps_size"]] == [
        "20 steps of 0.5 eps", "20 steps of 0.25 eps",
    ]  # fmt: skip
    names = {"figure4a_radii", "figure4b_radii", "figure2_size", "figure2_number_fosc"}
    assert names <= {file.stem for file in (tmp_path / "digits-quick").glob("*.png")}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ("dynamik",)}, "unknown method 'dynamik'; did you mean 'dynamic'?"),
        ({"methods": ()}, "nothing to run: --methods is empty"),
        ({"part": ("tables",)}, "unknown part 'tables'"),
        ({"methods": ("erm",)}, "add pgd to --methods"),
        ({"counts": ()}, "nothing to run: --counts is empty"),
        ({"radii": ("wide",)}, "radii must be a number such as 0.3 or 8/255, got 'wide'"),
        ({"sizes": (0.0,)}, "sizes must be finite and above 0, got 0"),
        ({"c_max": 0.0}, "c_max must be finite and above 0, got 0"),
        ({"groups": 1}, "groups must be a whole number of at least 2, got 1"),
        ({"groups": 65}, "64 test images do not fill groups=65; use fewer"),
        ({"surrogate": "trades"}, "unknown surrogate 'trades'"),
        ({"seeds": ()}, "at least one of --seeds"),
    ],
)
def test_mistakes_name_the_value_before_anything_is_trained(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        main(small(tmp_path, **changes))
    assert not any(tmp_path.rglob("config.json"))
