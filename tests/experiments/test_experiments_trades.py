"""TRADES' experiments on a few digits: the command as a user runs it, and its formulas."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from training.training_cases import linear

from experiments.common.options import Options
from experiments.common.per_image import clean_cross_entropy, per_image
from experiments.common.recipes import DIGITS, recipe
from experiments.trades import plane, recipes, theorem
from experiments.trades.__main__ import main
from experiments.trades.config import Config
from experiments.trades.methods import white_box
from experiments.trades.tables import jobs
from jaxrobust import attacks, data
from jaxrobust.data import Split
from jaxrobust.threats import Linf
from jaxrobust.types import Variables


def small(out: Path, **changes) -> Config:
    options = {
        "seeds": (0, 1),
        "epochs": 1,
        "limit": 96,
        "test_limit": 64,
        "batch_size": 32,
        "model": "mlp",
        "autoattack": 0,
        "out": out,
        "progress": False,
    }
    common = {name: changes.pop(name) for name in list(changes) if hasattr(Options, name)}
    return Config(options=Options(**(options | common)), **changes)


def accuracy(report: dict, column: str) -> float:
    mask = report["clean"] if column == "Clean" else report["attacks"][column]["robust"]
    return 100 * sum(mask) / len(mask)


@pytest.mark.slow
@pytest.mark.usefixtures("default_promotion")
def test_white_and_black_box_tables_hold_the_figures_of_their_reports(tmp_path, capsys):
    config = small(tmp_path, part=("table", "black-box"), attacks=("fgsm", "pgd"))
    tables = main(config)
    folder = tmp_path / "digits-quick"
    table, transfers = tables["table"], tables["black_box"]
    names = ["erm", "pgd", "trades 1/lambda=1", "trades 1/lambda=6"]
    assert [row["method"] for row in table] == names
    for name in ("table", "black_box"):
        assert json.loads((folder / f"{name}.json").read_text())["rows"] == tables[name]
    for row in table:
        for column in ("Clean", "FGSM", "FGSM20"):
            stem = row["method"].replace(" ", "-").replace("/", "-")
            found = [
                accuracy(
                    json.loads(
                        (folder / "models" / f"{stem}-seed{s}" / "test_last.json").read_text()
                    ),
                    column,
                )
                for s in (0, 1)
            ]
            assert row[column] == pytest.approx(np.mean(found))

    last = "trades 1/lambda=6"
    pairs = [("pgd", "erm"), (last, "erm"), ("pgd", last), (last, "pgd")]
    assert [row["method"] for row in transfers] == [f"{a} ({b})" for a, b in pairs]
    for row in transfers:
        # One defended model has one clean loss, whatever the source; errors cost log 2 at least.
        same = [r for r in transfers if r["method"].split(" (")[0] == row["method"].split(" (")[0]]
        assert {r["clean loss"] for r in same} == {row["clean loss"]}
        for column in ("FGSM", "FGSM20"):
            assert row[f"{column} loss"] >= np.log(2) * (1 - row[column] / 100)
    report = json.loads((folder / "black_box" / "pgd-from-erm-seed0.json").read_text())
    other = json.loads((folder / "black_box" / "pgd-from-erm-seed1.json").read_text())
    mean = (accuracy(report, "FGSM") + accuracy(other, "FGSM")) / 2
    assert transfers[0]["FGSM"] == pytest.approx(mean)
    assert "pgd (erm)" in capsys.readouterr().out

    histories = {p: p.read_text() for p in folder.rglob("metrics.jsonl")}
    assert len(histories) == 8
    assert main(config) == tables
    assert {p: p.read_text() for p in histories} == histories  # timings included


@pytest.mark.slow
@pytest.mark.usefixtures("default_promotion")
def test_sweep_and_theorem_hold_the_figures_of_their_models(tmp_path):
    options = {"part": ("sensitivity", "theorem"), "weights": (2.0,), "lambdas": (2.0,)}
    config = small(tmp_path, limit=160, test_limit=None, **options)
    tables = main(config)
    folder = tmp_path / "digits-quick"
    (row,) = tables["sensitivity"]
    assert row["method"] == "trades 1/lambda=2"
    assert row["seeds"] == 2
    assert (folder / "sensitivity.png").stat().st_size > 1000
    natural, robust = tables["theorem"]
    assert natural["method"] == "natural"
    assert natural["Delta"] is None
    for side in ("Delta_LHS", "Delta_RHS", "Delta"):
        assert np.isfinite(robust[side])
    assert robust["Delta"] == pytest.approx(robust["Delta_RHS"] - robust["Delta_LHS"])
    gap = (natural["A_nat"] - robust["A_rob"]) / 100
    assert robust["Delta_LHS"] == pytest.approx(gap)
    assert not any(column.startswith("published") for column in robust)
    assert main(config) == tables


SIZE = 16
DRAW = np.random.default_rng(0)
X = DRAW.uniform(0.3, 0.7, (40, 4, 4, 1)).astype(np.float32)
Y = DRAW.integers(0, 2, 40).astype(np.int32)
W = DRAW.normal(size=(SIZE, 2)).astype(np.float32)
LINE = W[:, 1] - W[:, 0]
# The boundary cuts through the images, so that both signs and flips occur.
B = np.asarray([np.median(X.reshape(40, -1) @ LINE), 0.0], np.float32)
VARIABLES = Variables({"w": jnp.asarray(W), "b": jnp.asarray(B)})
EPS = 0.02


def linear_scores() -> theorem.Scores:
    pgd = attacks.carlini_wagner_pgd(Linf(EPS), step_size=EPS, steps=3)
    return per_image(
        Partial(theorem.worst_scores, pgd), linear(2), VARIABLES, Split(X, Y), batch_size=16
    )


def test_worst_scores_of_a_linear_classifier_are_the_closed_form():
    found = linear_scores()
    clean = X.reshape(40, -1) @ LINE + B[1] - B[0]
    np.testing.assert_allclose(found.clean, clean, atol=1e-5)
    # f(x') f(x) is least where f falls by eps ||w||_1 along its own sign.
    least = (clean - np.sign(clean) * EPS * np.abs(LINE).sum()) * clean
    np.testing.assert_allclose(found.product, least, atol=1e-5)
    assert (least < 0).any()
    assert (least > 0).any()


@pytest.mark.parametrize("lam", [0.01, 1.0, 50.0])
def test_risks_are_the_definitions_and_every_image_obeys_the_bound(lam):
    scores = linear_scores()
    found = theorem.risks(scores, Y, lam)
    natural = robust = surrogate = regularizer = 0.0
    for f, product, y in zip(scores.clean, scores.product, 2 * Y - 1, strict=True):
        broken = f * y <= 0 or product <= 0
        hinges = max(0, 1 - f * y), max(0, 1 - product / lam)
        assert broken <= sum(hinges)
        natural += (f * y <= 0) / 40
        robust += broken / 40
        surrogate += hinges[0] / 40
        regularizer += hinges[1] / 40
    np.testing.assert_allclose(found, (natural, robust, surrogate, regularizer), rtol=1e-6)
    row = theorem.columns(found, theorem.Risks(0.0, 0.0, 0.0, 0.0))
    assert row["Delta"] == pytest.approx(surrogate + regularizer - robust)
    assert row["Delta"] >= 0


def test_cross_entropies_cover_every_image_of_the_last_batch_too():
    measure = Partial(clean_cross_entropy)
    found = per_image(measure, linear(2), VARIABLES, Split(X, Y), batch_size=16)
    logits = X.reshape(40, -1) @ W + B
    expected = np.log(np.exp(logits).sum(1)) - logits[np.arange(40), Y]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_the_binary_task_keeps_its_two_classes():
    digits = data.load("digits", limit=100)
    task = theorem.binary(digits)
    assert task.num_classes == 2
    kept = np.isin(digits.train.y, (1, 3))
    np.testing.assert_array_equal(task.train.x, digits.train.x[kept])
    np.testing.assert_array_equal(task.train.y == 1, digits.train.y[kept] == 3)
    with pytest.raises(ValueError, match="larger limit"):
        theorem.binary(data.load("digits", limit=2))


def test_recipes_carry_the_papers_settings():
    table = recipe("mnist", "paper", recipes.TABLE)
    assert (table.model, table.epsilon, table.step_size, table.steps) == (
        "trades_small", 0.3, 0.01, 40,
    )  # fmt: skip
    assert (table.epochs, table.eval_steps, table.eval_step_size) == (100, 40, 0.01)
    cifar = recipe("cifar10", "paper", recipes.TABLE)
    assert (cifar.model, cifar.epsilon, cifar.step_size, cifar.steps) == (
        "wide_resnet", 0.031, 0.007, 10,
    )  # fmt: skip
    assert (cifar.learning_rate, cifar.eval_steps, cifar.eval_step_size) == (0.1, 20, 0.003)
    sweep = recipe("mnist", "paper", recipes.SENSITIVITY)
    assert (sweep.epsilon, sweep.steps, sweep.epochs, sweep.eval_step_size) == (0.1, 20, 50, 0.005)
    bound = recipe("mnist", "paper", recipes.THEOREM)
    assert (bound.epsilon, bound.steps, bound.epochs, bound.step_size) == (0.1, 20, 30, 0.01)
    assert recipes.PUBLISHED_SENSITIVITY["cifar10"]["trades 1/lambda=5"] == (81.72, 50.64)
    columns = white_box(("fgsm", "pgd", "lbfgs"), cifar, more_steps=1000)
    assert list(columns) == ["FGSM", "FGSM20", "L-BFGS", "FGSM1000"]
    assert columns["FGSM20"].settings["start"] is attacks.clean
    assert DIGITS.steps < DIGITS.eval_steps


def test_points_of_the_plane_can_be_parted_and_are_drawn_with_their_balls(tmp_path):
    made = plane.points(3, count=16)
    x, y = made.train
    far = np.abs(x[:, None] - x[None]).max(axis=-1)
    assert far[y[:, None] != y[None]].min() > 2.2 * plane.RADIUS
    assert set(y.tolist()) == {0, 1}
    above = x[:, 1] > 0.5 + 0.25 * np.sin(2 * np.pi * x[:, 0])
    np.testing.assert_array_equal(above, y == 1)
    line = np.linspace(0, 1, plane.SIDE)
    scores = np.broadcast_to(line[:, None] - 0.5, (plane.SIDE, plane.SIDE))
    found = {"natural": plane.Learned(0.0, 25.0, scores), "TRADES": plane.Learned(5.0, 10, scores)}
    assert plane.rows(found)[0] == {
        "method": "natural", "natural error": 0.0, "robust error": 25.0,
    }  # fmt: skip
    left, right = plane.drawn(found, made).axes
    assert len(left.patches) == len(right.patches) == 16
    assert right.get_title() == "TRADES: natural error 5 %, robust 10 %"


@pytest.mark.slow
@pytest.mark.usefixtures("default_promotion")
def test_the_plane_is_learned_and_judged_on_its_points(tmp_path):
    made = plane.points(0, count=24)
    found = plane.learned(tmp_path, 0, made, epochs=150)
    assert list(found) == ["natural", "TRADES"]
    for one in found.values():
        assert one.natural <= one.robust
        assert one.natural < 20
        # the drawing and the error are of the same network
        column, row = (np.rint(made.train.x * (plane.SIDE - 1)).astype(int)).T
        drawn = one.scores[row, column] > 0
        assert 100 * np.mean(drawn != (made.train.y == 1)) <= one.natural + 9


def test_deepfool_by_l2_succeeds_where_its_point_lies_in_the_linf_ball():
    """On a linear classifier its move is -f w / |w|^2 (and 2 % more): large where one weight is."""
    w = np.asarray([3.0, 0.3, 0.3, 0.3])
    x = np.full(4, 0.5, np.float32)
    f = lambda z: jnp.stack([jnp.asarray(w, z.dtype) @ (z - 0.5) + 0.5, jnp.zeros(())])  # noqa: E731
    move = 1.02 * 0.5 * w / (w @ w)
    for radius, expected in ((1.01 * move.max(), True), (0.99 * move.max(), False)):
        settings = dataclasses.replace(DIGITS, epsilon=float(radius))
        columns = white_box(("deepfool", "deepfool-l2"), settings, more_steps=None)
        found = columns["DeepFool l2"](jax.random.key(0), f, jnp.asarray(x), jnp.int32(0))
        np.testing.assert_allclose(found.x, x - move, atol=1e-5)
        assert bool(found.success) is expected
        assert float(found.norm) == pytest.approx(move.max(), rel=1e-4)
        # in linf the nearest point is nearer, and every coordinate shares the move
        assert bool(columns["DeepFool"](jax.random.key(0), f, jnp.asarray(x), jnp.int32(0)).success)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"part": ("tables",)}, "unknown part 'tables'; did you mean 'table'?"),
        ({"part": ()}, "nothing to run: --part is empty"),
        ({"part": ("theorem",), "dataset": "cifar10"}, "unknown data set|preset"),
        ({"weights": (1.0, 0.0)}, "1 / lambda must be finite and above 0, got 0"),
        ({"weights": ()}, "nothing to run: --weights is empty"),
        ({"lambdas": (2.0, 2.0)}, "lambdas holds a value twice: 2.0 2.0"),
        ({"attacks": ("fgsm", "pdg")}, "unknown attack 'pdg'; did you mean 'pgd'?"),
        ({"more_steps": 20}, "more_steps must be a whole number of at least 21, got 20"),
        ({"seeds": (0, 0)}, "seeds holds a value twice: 0 0"),
    ],
)
def test_mistakes_name_the_value_before_anything_is_trained(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        jobs(small(tmp_path, **changes))
