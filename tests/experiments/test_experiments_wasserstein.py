"""The Wasserstein study: its radii, distances and models, and the command on a few digits."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common.reference import ORDER, original_order
from experiments.common.trained import predictions
from experiments.wasserstein import measure, recipes, reference, tables
from experiments.wasserstein.__main__ import main
from experiments.wasserstein.config import Config, results_folder, setting
from experiments.wasserstein.lp import exact_distance
from experiments.wasserstein.measure import Broken
from experiments.wasserstein.recipes import PRESETS, Growth, Plans
from experiments.wasserstein.subjects import (
    RELEASED,
    Subject,
    binary,
    released_subjects,
    straight_through,
)
from jaxrobust import data, figures, models
from jaxrobust.data import Split
from jaxrobust.data.tfds import tfds
from jaxrobust.evaluation import AttackReport, Report, Timing
from jaxrobust.threats import Linf
from jaxrobust.types import Model, Variables


def test_radii_of_the_thesis():
    mnist, cifar = PRESETS["mnist"], PRESETS["cifar10"]
    assert mnist.test.radii[[0, 1, -1]] == pytest.approx([0.3, 0.33, 1.835], rel=1e-3)
    assert len(mnist.test.radii) == 20
    # Section 5.2.1 trains in [.1, 2.1], section 5.2.2 in [.01, .38].
    assert mnist.train.radii[[0, -1]] == pytest.approx([0.1, 2.07], rel=0.01)
    assert cifar.train.radii[[0, -1]] == pytest.approx([0.01, 0.384], rel=0.01)
    assert (mnist.plans.lam, cifar.plans.lam) == (1000, 3000)
    np.testing.assert_array_equal(Growth(1.0, 2.0, 3, 7).radii, [1, 2, 4])
    np.testing.assert_array_equal(Growth(1.0, 2.0, 3, 6).radii, [1, 2])


@pytest.mark.parametrize("p", [1.0, 2.0])
def test_exact_distance_of_images_that_move_as_a_whole(p):
    cost = Plans(size=5, p=p).cost
    x, z = np.zeros((6, 7, 2)), np.zeros((6, 7, 2))
    x[2, 2, 0], x[3, 3, 1] = 3.0, 1.0
    z[3, 4, 0], z[2, 2, 0], z[3, 3, 1] = 1.0, 2.0, 1.0
    assert exact_distance(x, z, cost) == pytest.approx(5 ** (p / 2) / 4, abs=1e-9)
    # Scaled as a whole, images stay as far apart.
    assert exact_distance(x, 1.001 * z, cost) == pytest.approx(5 ** (p / 2) / 4, abs=1e-9)


def test_exact_distance_on_a_line_is_that_of_the_distribution_functions():
    rng = np.random.default_rng(0)
    for _ in range(3):
        x, z = rng.uniform(size=(2, 1, 6, 1)) * (rng.uniform(size=(2, 1, 6, 1)) > 0.3)
        between = np.abs(np.cumsum(x / x.sum() - z / z.sum())).sum()
        assert exact_distance(x, z, Plans(size=11).cost) == pytest.approx(between, abs=1e-9)
        # With p = 1 a chain of short moves costs what a long one does, but a plan is one move.
        assert exact_distance(x, z, Plans(size=3).cost) >= between - 1e-9


def test_exact_distance_prices_what_cannot_be_moved():
    x, z = np.zeros((5, 5, 1)), np.zeros((5, 5, 1))
    x[0, 0], z[0, 0], z[4, 4] = 1.0, 1 - 1e-4, 1e-4
    # What is left over at one end and missing at the other pays 10 diagonals each.
    price = 10 * 2**0.5
    assert exact_distance(x, z, Plans(size=3).cost) == pytest.approx(2e-4 * price, abs=1e-7)
    with pytest.raises(ValueError, match="one that is empty"):
        exact_distance(x, 0 * z, Plans(size=3).cost)


WEIGHT = np.linspace(-1, 1, 16, dtype=np.float32).reshape(4, 4, 1)


def linear() -> Model:
    """Logits (-score, score), score = w.x - w.1 / 4, on 4 x 4 images."""

    def apply(variables, x, **_):
        score = jnp.sum((x - jnp.float32(0.25)) * variables.params[None], axis=(1, 2, 3))
        return jnp.stack([-score, score], axis=1), ()

    return Model(lambda key, x: Variables(jnp.asarray(WEIGHT)), apply)


def test_straight_through_keeps_the_thresholds_values_and_the_models_gradient():
    x = jax.random.uniform(jax.random.key(0), (4, 4, 1))

    def both(model):
        f = model.logits_fn(Variables(jnp.asarray(WEIGHT)))
        return jax.jit(lambda x: (f(x), jax.grad(lambda z: f(z)[1])(x)))(x)

    values, gradient = both(straight_through(linear()))
    hard, flat = both(models.binarized(linear()))
    plain, slope = both(linear())
    np.testing.assert_array_equal(values, hard)
    np.testing.assert_array_equal(gradient, slope)
    assert not np.allclose(values, plain)
    assert not np.any(flat)


def test_binary_images_are_those_that_the_threshold_sees():
    every = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    found = binary(Split(every, np.zeros(1, np.int32))).x
    np.testing.assert_array_equal(found == 255, every / 255 >= 0.5)
    assert set(np.unique(found)) == {0, 255}


def result(norms, margins, clean, *, name="standard", x=None) -> Broken:
    """An attack's outcome with schedule 1, 2, 4."""
    count = len(norms)
    x = np.zeros((count, 4, 4, 1), np.uint8) if x is None else x
    split = Split(x, np.zeros(count, np.int32))
    margins, norms, clean = np.asarray(margins, float), np.asarray(norms, float), np.asarray(clean)
    attack = AttackReport(
        robust=clean & (margins < 0), inside=np.ones(count, bool), norm=norms, margin=margins,
        forwards=1.0, backwards=1.0, timing=Timing(1.0, 0.0, 1), examples=x / np.float32(255),
        gradients=np.resize([2, 1, 3], count),
    )  # fmt: skip
    plans = Plans(size=3)
    report = Report(clean, Timing(1.0, 0.0, 1), {plans.name: attack}, {})
    subject = Subject(name, linear(), Variables(jnp.asarray(WEIGHT)), split, split)
    return Broken(subject, plans, Growth(1.0, 2.0, 1, 3), report)


NORMS = [0.0, 0.5, 1.0005, 1.01, 3.0, 9.0, 0.5, 3.9, np.nan]
MARGINS = [1, 1, 1, 0, np.nan, 1, -1, 1, 1]
CLEAN = [False, True, True, True, True, True, True, False, True]


def test_radii_are_those_of_the_schedule_that_hold_the_points():
    broken = result(NORMS, MARGINS, CLEAN)
    inf = np.inf
    np.testing.assert_array_equal(broken.radii, [1, 1, 1, 2, 4, inf, inf, 4, inf])
    np.testing.assert_array_equal(broken.found, [0, 1, 1, 1, 1, 0, 0, 0, 0])
    assert [broken.told(i) for i in (1, 6)] == ["eps 1, as 0", "not found"]


def test_plan_costs_are_the_radii_of_the_last_move():
    broken = result(NORMS, MARGINS, CLEAN)
    inf = np.inf
    # 2 gradients: moved at step 0 and then seen; 1: wrong before any move; 3 = all steps: at 2.
    np.testing.assert_array_equal(broken.plan_costs, [1, 1, 4, 1, 1, 4, inf, 1, 4])
    # Of nine images, two are wrong and one holds at every cost; three others cost 4.
    assert broken.costly((0.5, 1.0, 4.0)) == pytest.approx(
        {"at 0.5": 700 / 9, "at 1": 400 / 9, "at 4": 100 / 9}
    )


def test_points_of_unknown_distance_are_told():
    told = tables.warnings([result(NORMS, MARGINS, CLEAN), result([0.5, np.inf], [1, -1], [1, 1])])
    assert len(told) == 1
    assert "standard lam=1000 p=1 3x3: 1 images are fooled by points" in told[0]


def test_rows_and_curves_count_what_is_left():
    broken = result(NORMS[:-1], MARGINS[:-1], CLEAN[:-1])
    curve = broken.curve([1.0, 2.0, 4.0])
    np.testing.assert_array_equal(curve.radii, [1, 2, 4])
    np.testing.assert_array_equal(curve.robust.sum(axis=1), [4, 3, 2])
    row = broken.accuracies((0.4, 1.0, 4.0, 4.1))
    assert row["at 0"] == 75.0
    assert (row["at 0.4"], row["at 1"], row["at 4"]) == (75.0, 50.0, 25.0)
    assert row["at 4.1"] is None
    assert broken.median == "1.5"
    none = result([1.0], [-1.0], [True])
    assert none.median is None


def test_bounds_hold_the_exact_distance():
    x = np.zeros((1, 4, 4, 1), np.uint8)
    x[0, 1, 1:3] = 100
    broken = result([0.5], [1.0], [True], x=x)
    point = np.float32(x / 255)
    # A quarter of the mass moves diagonally.
    point[0, 1, 1], point[0, 2, 0] = point[0, 1, 1] / 2, point[0, 1, 1] / 2
    attack = broken.report.attacks[broken.plans.name]
    object.__setattr__(attack, "examples", point)
    (row,) = measure.distances(broken, 3)
    lower, estimate, exact = (
        float(row[name]) for name in ("dual bound", "estimate", "exact distance")
    )
    assert exact == pytest.approx(2**0.5 / 4, rel=1e-3)
    assert 0.98 * exact <= lower <= 1.0001 * exact
    assert estimate == pytest.approx(exact, rel=5e-3)
    assert (row["method"], row["plan cost"]) == ("standard, image 0", "1")
    assert measure.distances(broken, 0) == []


def test_the_reference_is_compared_image_by_image(tmp_path):
    theirs = np.asarray([1.0, 2.0, 1.0, np.inf, 4.0, np.inf], np.float32)
    np.savez(tmp_path / reference.RADII, mnist_small_standard=theirs)
    broken = result([0.5, 0.6, 3.0, 0.7, 9.0, 9.0, 0.1], [1] * 7, [True] * 7)
    row = reference.beside(broken, tmp_path)
    assert (row["broken"], row["ref. broken"]) == ("4/6", "4/6")
    assert (row["smaller"], row["same"], row["larger"]) == (2, 2, 2)
    assert (row["median"], row["ref. median"]) == ("1", "1")
    other = result([0.5], [1.0], [True], name="linf")
    assert reference.beside(other, tmp_path) is None
    with pytest.raises(FileNotFoundError, match=r"mnist_test_order\.npz; check --reference-dir"):
        original_order(broken.subject.test, tmp_path)


def test_images_return_to_their_original_order(tmp_path):
    split = Split(np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1), np.arange(5, dtype=np.int32))
    np.savez(tmp_path / ORDER, position=np.asarray([3, 1, 4, 0, 2], np.int32))
    ordered = original_order(split, tmp_path)
    np.testing.assert_array_equal(ordered.y, [3, 1, 4, 0, 2])
    np.testing.assert_array_equal(ordered.x.ravel(), [3, 1, 4, 0, 2])
    with pytest.raises(ValueError, match="orders 5 images, the test split has 4"):
        original_order(Split(split.x[:4], split.y[:4]), tmp_path)


def test_released_models_and_the_original_order(shared):
    source = tfds("mnist", data_dir=shared / "tensorflow_datasets")
    order = np.load(shared / "reference" / ORDER)["position"][:10]
    test = source.read("test", order)
    # The first labels of the classic file.
    np.testing.assert_array_equal(test.y, [7, 2, 1, 0, 4, 1, 4, 9, 5, 9])
    mnist = data.Dataset("mnist", "MNIST", 10, test, Split(test.x[:0], test.y[:0]), test)
    subjects = released_subjects(tuple(RELEASED), shared / "pretrained", mnist, 6)
    assert [s.name for s in subjects] == list(RELEASED)
    assert all(s.examples.size == 6 and s.test.size == 10 for s in subjects)
    guessed = {
        s.name: predictions(s.model, s.variables, np.float32(s.test.x / 255)) for s in subjects
    }
    for found in guessed.values():
        assert (found == test.y).mean() >= 0.8
    np.testing.assert_array_equal(guessed["binarized"], guessed["binarized-inside"])
    assert len({s.model for s in subjects}) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models": ("standart",)}, "unknown model 'standart'; did you mean 'standard'?"),
        ({"models": ("linf",)}, "unknown model 'linf'"),
        ({"models": ("standard", "standard")}, "models holds a value twice: standard standard"),
        ({"models": ()}, "--models names none"),
        ({"lam": (10.0, 10.0)}, "lam holds a value twice: 10.0 10.0"),
        ({"lam": (0.0,)}, "lam must be finite and above 0, got 0.0"),
        ({"size": (4,)}, "size must be odd"),
        ({"p": (-1.0,)}, "p must be finite and above 0, got -1.0"),
        ({"limit": 0}, "limit must be a whole number of at least 1, got 0"),
        ({"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        ({"train_steps": 0}, "steps must be a whole number of at least 1, got 0"),
        ({"preset": "mnist"}, "--pretrained-dir and --preset mnist belong together"),
        ({"pretrained_dir": "x"}, "--pretrained-dir and --preset mnist belong together"),
        ({"reference_dir": "x"}, "--reference-dir holds figures of MNIST, not of digits"),
    ],
)
def test_mistakes_name_the_value(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        main(Config(out=tmp_path, progress=False, **changes))
    assert not any(tmp_path.iterdir())


def test_options_change_the_preset_and_name_the_folder(tmp_path):
    config = Config(out=tmp_path, steps=20, train_steps=4, epochs=2, learning_rate=0.3, limit=9)
    chosen = setting(config)
    assert (chosen.test.steps, chosen.train.steps, chosen.limit) == (20, 4, 9)
    assert (chosen.recipe.epochs, chosen.recipe.steps, chosen.recipe.eval_steps) == (2, 4, 20)
    assert chosen.recipe.learning_rate == 0.3
    assert chosen.recipe.batch_size == PRESETS["quick"].recipe.batch_size
    assert results_folder(config, chosen) == tmp_path / "quick" / "first9-steps20-seed0"


def _cubes(self: Plans, radius: float) -> Linf:
    """Cubes in the place of Wasserstein balls, whose attack takes a minute to compile."""
    return Linf(radius, upper=1.0 + 0 * self.lam)


@pytest.mark.slow
def test_the_study_writes_tables_and_figures_and_resumes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(recipes.Plans, "threat", _cubes)
    preset = PRESETS["quick"]
    mlp = dataclasses.replace(preset.recipe, model="mlp")
    monkeypatch.setitem(PRESETS, "quick", dataclasses.replace(preset, recipe=mlp))
    options = {
        "limit": 8, "train_limit": 96, "epochs": 2, "exact": 0, "columns": 3, "steps": 30,
        "lam": (10.0, 1000.0), "p": (1.0, 2.0), "size": (3, 5),
    }  # fmt: skip
    config = Config(out=tmp_path, progress=False, **options)
    # The experiment itself runs under JAX's defaults: Adam's bias correction promotes dtypes.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        rows = main(config)
        assert [row["method"] for row in rows] == ["standard", "adversarial"]
        for row in rows:
            assert row["at 0"] >= row["at 0.25"]
            assert row["at 0.5"] is row["at 1"] is None  # beyond the radii of 30 steps
        folder = tmp_path / "quick" / "first8-steps30-seed0"
        saved = {name: json.loads((folder / f"{name}.json").read_text())["rows"] for name in (
            "table", "sweep", "sizes"
        )}  # fmt: skip
        assert saved["table"] == rows
        names = [row["method"] for row in saved["sweep"]]
        assert names[:2] == ["standard lam=10 p=1 3x3", "standard lam=1000 p=1 3x3"]
        assert len(names) == len(set(names)) == 4
        names = [row["method"] for row in saved["sizes"]]
        assert names[1:3] == ["adversarial lam=1000 p=1 3x3", "standard lam=1000 p=1 5x5"]
        drawn = sorted(file.stem for file in folder.glob("*.png"))
        assert drawn == ["figure2_perturbation", "figure3_examples", "figure4_curves",
                         "figure7_sweep", "figure8_sizes"]  # fmt: skip
        assert "Digits (8x8): first 8 test images (Clean: all 500)" in capsys.readouterr().out

        histories = sorted((tmp_path / "quick").glob("*-seed0/metrics.jsonl"))
        trained = [file.read_text() for file in histories]
        batches = {f: f.stat().st_mtime_ns for f in folder.glob("batches/**/*.npz")}
        assert len(trained) == 2
        # 5 kinds of plans on the standard network, 2 on the other, and linf for Figure 5.2.
        assert len(batches) == 5 + 2 + 1
        monkeypatch.setattr(figures, "save_figure", lambda figure, path: path)
        assert main(config) == rows
        assert [file.read_text() for file in histories] == trained
        again = {f: f.stat().st_mtime_ns for f in folder.glob("batches/**/*.npz")}
        assert again == batches
