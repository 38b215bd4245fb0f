"""The study of provable defenses: settings, polytopes, toy, and the command on a few digits."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common.recipes import Recipe
from experiments.provable import __main__ as provable
from experiments.provable import (
    cascades,
    costs,
    estimators,
    planar,
    plots,
    polytopes,
    recipes,
    released,
    subjects,
    tables,
    toy,
)
from experiments.provable.__main__ import main
from experiments.provable.config import Config, setting
from experiments.provable.measure import Run
from experiments.provable.published import PUBLISHED, told
from experiments.provable.recipes import PRESETS
from experiments.provable.subjects import Row, Subject
from jaxrobust import data, models, training
from jaxrobust.data import Split
from jaxrobust.data.tfds import tfds
from jaxrobust.threats import Linf
from jaxrobust.types import Model, Variables


def test_settings_of_the_thesis():
    mnist, scaled, cifar = (PRESETS[n] for n in ("mnist", "mnist-scaled", "cifar10"))
    assert (mnist.recipe.epochs, mnist.recipe.batch_size, mnist.first, mnist.recipe.ramp) == (
        100, 50, 0.05, 0.5,
    )  # fmt: skip
    assert PRESETS["svhn_cropped"].recipe.batch_size == 20
    assert (scaled.recipe.epochs, scaled.samples, scaled.recipe.ramp) == (60, 50, 1 / 3)
    assert (cifar.recipe.optimizer, cifar.recipe.learning_rate, cifar.clip) == ("sgd", 0.05, 1.0)
    assert cifar.recipe.augment
    assert cifar.epsilons == (2 / 255, 8 / 255)
    # Of 60 epochs with 10 steps each, the rate halves after 30, 40 and 50.
    recipe = scaled.recipe
    rate = training.schedule(recipe.schedule, 1.0, 600, recipe.schedule_options)
    found = [float(rate(step)) for step in (0, 299, 301, 399, 401, 501, 599)]
    assert found == pytest.approx([1, 1, 0.5, 0.5, 0.25, 0.125, 0.125])
    for name, preset in PRESETS.items():
        assert set(preset.networks) <= recipes.NETWORKS.keys(), name
        for network, radius, _ in preset.published:
            assert network in recipes.NETWORKS
            assert preset.norm in ("linf", "l2")
            assert float(radius.split("/")[0]) > 0


def test_published_figures_belong_to_the_rows_of_their_presets():
    for name, missing in (("mnist", ()), ("cifar10", ()), ("mnist-l2", ()), ("cifar10-l2", ())):
        chosen = PRESETS[name]
        for row in subjects.rows(chosen):
            assert (row.network, told(row.radius), row.method) in chosen.published, missing
    assert PUBLISHED["mnist"]["small", "0.1", "dual"].endswith("1.80/3.93/4.11/5.82")
    assert [told(r) for r in (0.1, 1.58, 2 / 255, 36 / 255, 1.0, 0.2)] == [
        "0.1", "1.58", "2/255", "36/255", "1", "0.2",
    ]  # fmt: skip


def test_polygons_of_half_planes():
    normals = np.asarray([[1, 0], [-1, 0], [0, 1], [0, -1]], float)
    square = polytopes.polygon(normals, np.asarray([1.0, -3, -2, -5]), np.asarray([2.0, 0]))
    assert {tuple(np.round(c, 9)) for c in square} == {(1, -2), (3, -2), (3, 5), (1, 5)}
    assert polytopes.area(square) == pytest.approx(14)
    # A diamond, tiny and far away; a fifth half plane that it does not reach changes nothing.
    slanted = np.asarray([[1, 1], [1, -1], [-1, 1], [-1, -1], [1, 0]], float)
    center = np.asarray([40.0, -30.0])
    offsets = slanted @ center - np.asarray([1e-4, 1e-4, 1e-4, 1e-4, 9.0])
    diamond = polytopes.polygon(slanted, offsets, center)
    corners = {tuple(np.round(c, 5)) for c in (diamond - center) / 1e-4}
    assert corners == {(1, 0), (0, 1), (-1, 0), (0, -1)}
    # Counterclockwise: the shoelace sum is positive.
    x, y = diamond.T
    assert np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y) > 0
    with pytest.raises(ValueError, match="must lie inside all half planes, got a slack of -1"):
        polytopes.polygon(normals, np.asarray([1.0, -3, -2, -5]), np.asarray([4.0, 0]))


def test_polytopes_of_an_affine_network_are_exact():
    weight = jnp.asarray([[2.0, 0], [0, 1]])
    params = [(weight, jnp.asarray([1.0, -1]))]
    (found,) = polytopes.polytopes(params, np.float32([0.5, 0.5]), np.float32([0.25]))
    # The logits are the rectangle [1.5, 2.5] x [-.75, -.25].
    assert polytopes.area(found.outer) == pytest.approx(0.5, rel=1e-4)
    np.testing.assert_allclose(found.box, [[1.5, -0.75], [2.5, -0.25]], atol=1e-5)
    np.testing.assert_allclose(found.outer.min(0), [1.5, -0.75], atol=1e-4)
    np.testing.assert_allclose(found.outputs.reshape(-1, 2).max(0), [2.5, -0.25], atol=1e-6)
    (row,) = tables.box_rows({"affine": [found]}, [0.25])
    assert (row["logit 0"], row["dual 0"]) == ("[1.50, 2.50]",) * 2
    assert row["layerwise 1"] == "[-0.75, -0.25]"
    assert float(row["dual area / hull"]) == pytest.approx(1, abs=1e-3)


def test_outer_polytopes_hold_what_is_reached():
    params = toy.random_network(jax.random.key(0), (2, 8, 8, 2))
    found = polytopes.polytopes(params, np.float32([0.3, 0.6]), np.float32([0.05, 0.5]))
    for polytope in found:
        reached = polytope.outputs.reshape(-1, 2)
        edges = np.roll(polytope.outer, -1, axis=0) - polytope.outer
        inward = np.stack([-edges[:, 1], edges[:, 0]], 1)
        inward /= np.linalg.norm(inward, axis=1, keepdims=True)
        distance = np.einsum("nvd,vd->nv", reached[:, None] - polytope.outer, inward)
        assert distance.min() > -1e-5
        assert (polytope.box[0] <= polytope.outer.min(0) + 1e-5).all()
        assert (polytope.box[1] >= polytope.outer.max(0) - 1e-5).all()
    assert polytopes.area(found[1].outer) > polytopes.area(found[0].outer)


def test_toy_points_keep_their_distance():
    points = toy.sample_points(3)
    assert points.shape == (12, 2)
    apart = np.abs(points[:, None] - points[None]).max(-1) + np.eye(12)
    assert apart.min() >= 0.16
    assert ((points >= 0) & (points <= 1)).all()
    assert np.abs(points - toy.sample_points(4)).max() > 0
    with pytest.raises(ValueError, match=r"no place for 40 points at least 0\.5 apart"):
        toy.sample_points(0, count=40, spacing=0.5)


@pytest.mark.slow
def test_the_toy_is_certified_after_robust_training_alone(monkeypatch):
    points = np.float32([[0.6, 0.4], [0.3, 0.4]])
    monkeypatch.setattr(planar, "sample_points", lambda seed: points)
    monkeypatch.setattr(planar, "EPSILON", 0.13)
    monkeypatch.setattr(planar, "STEPS", 300)
    monkeypatch.setattr(planar, "SIDE", 101)
    monkeypatch.setattr(planar, "NETWORKS", 2)
    with jax.numpy_dtype_promotion("standard"):
        made = planar.planar(1, sizes=(2, 16, 2))
    standard, robust = made.tables["toy"]
    assert (standard["Clean"], robust["Clean"], robust["Wong-Kolter"]) == (0, 0, 0)
    assert standard["Adam steps"] <= robust["Adam steps"] <= 300
    assert len(made.tables["polytopes"]) == 2 * 3 + 2
    assert list(made.figures) == [
        "figure3_boundaries", "figure4_polytopes", "figure5_trained", "figure_layerwise",
    ]  # fmt: skip
    assert len(made.figures["figure4_polytopes"].axes) == 3 * 2


def test_decisions_lie_as_the_plane_does():
    # Class 1 where the second coordinate is above .25.
    params = [(jnp.asarray([[0.0, 0], [0, 1]]), jnp.asarray([0.25, 0.0]))]
    shown = np.asarray(toy.decision(params, 5))
    expected = np.linspace(-0.25, 0.75, 5)[:, None] * np.ones((1, 5))
    np.testing.assert_allclose(shown, expected, atol=1e-6)


def test_relative_errors_shrink_with_projections():
    rng = np.random.default_rng(0)
    kernel = jnp.asarray(rng.normal(size=(4, 4, 3, 6)), jnp.float32)
    kernel = kernel.at[..., 0].set(0)
    found = estimators.relative_errors(jax.random.key(0), kernel)
    assert list(found) == [10, 50, 100]
    # 5 filters that are not zero, 7 x 7 places.
    assert all(v.shape == (245,) for v in found.values())
    # A median of k Cauchy samples has standard deviation pi / 2 / sqrt(k) for large k.
    assert found[100].std() == pytest.approx(np.pi / 20, rel=0.35)
    assert found[10].std() > found[50].std() > found[100].std()
    drawn = estimators.untrained(jax.random.key(1), jnp.zeros((4, 4, 8, 16)))
    assert float(drawn.std()) == pytest.approx((2 / 256) ** 0.5, rel=0.1)


def linear(weight, bias):
    def init(key, x):
        raise NotImplementedError

    def apply(variables, x, **_):
        return x.reshape(len(x), -1) @ variables.params + jnp.asarray(bias)[None], ()

    return Model(init, apply), Variables(jnp.asarray(weight, jnp.float32))


def test_certified_radii_and_cascade_rules_of_linear_classifiers(tmp_path):
    # One pixel x; f = (x, .5 - 0): class 0 above .5. The margin is |x - .5| in linf.
    model, variables = linear([[1.0, 0.0]], np.float32([0.0, 0.5]))
    x = np.asarray([255, 0, 153, 128], np.uint8).reshape(4, 1, 1, 1)
    examples = Split(x, np.asarray([0, 1, 1, 0], np.int32))
    subject = Subject(Row("linear", 0.2, "dual"), 0, model, variables, Linf(0.2), examples)
    preset = dataclasses.replace(PRESETS["mnist"], radii=4)
    run = Run(preset, tmp_path, (), ("interval",), 4, False)
    radii, right = run.radii(subject, 0.8)
    np.testing.assert_allclose(radii, [0.5, 0.5, 0.1, 0.002], atol=1e-3)
    np.testing.assert_array_equal(right, [1, 1, 0, 1])
    # The second stage moves its boundary to .7 and certifies the third image as class 1... as it is
    # .1 away, at radius .05.
    cascade = cascades.Cascade(subject._replace(threat=Linf(0.05)), [variables, variables], "told")
    rows = cascades.stage_rows(run, cascade)
    assert [row["method"] for row in rows] == [
        "linear 0.2 dual, 1 of 2 stages",
        "linear 0.2 dual, 2 of 2 stages",
    ]
    # One image is wrong, and the last is right without a certificate.
    assert rows[0]["Clean"] == 25.0
    assert rows[0]["published"] == rows[0]["strict"] == rows[0]["unanimous"] == 50.0
    assert [row["in the thesis"] for row in rows] == ["", "told"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"preset": "mnits"}, "unknown preset 'mnits'; did you mean 'mnist'?"),
        ({"parts": ("tabel",)}, "unknown parts 'tabel'; did you mean 'table'?"),
        ({"networks": ("wide3",)}, "unknown networks 'wide3'"),
        ({"methods": ("dual", "dual")}, "methods holds a value twice: dual dual"),
        ({"methods": ()}, "--methods names none"),
        ({"seeds": ()}, "--seeds names none"),
        ({"certificates": ("crown",)}, "unknown certificates 'crown'"),
        ({"attacks": ("ddn",)}, "attack 'ddn' is defined for l2 only"),
        ({"eps": ("8/256x",)}, "eps must be a number such as 0.3 or 8/255, got '8/256x'"),
        ({"eps": ("0",)}, "eps must be finite and above 0, got 0.0"),
        ({"limit": 0}, "limit must be a whole number of at least 1, got 0"),
        ({"preset": "mnist-l2", "exact": 2}, "integer programs know linf balls only"),
        ({"preset": "mnist-released"}, "--pretrained-dir and --preset mnist-released belong"),
        ({"pretrained_dir": "x"}, "--pretrained-dir and --preset mnist-released belong"),
        (
            {"reference_dir": "x"},
            "--reference-dir holds bounds of the networks of --preset mnist-r",
        ),
        ({"preset": "har"}, "--har-dir and --preset har belong together"),
        ({"har_dir": "x"}, "--har-dir and --preset har belong together"),
        (
            {"preset": "mnist-released", "pretrained_dir": "x", "epochs": 3},
            "trains nothing, so that epochs changes nothing",
        ),
    ],
)
def test_mistakes_name_the_value(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        main(Config(out=tmp_path, progress=False, **changes))
    assert not any(tmp_path.iterdir())


def test_options_change_the_preset():
    chosen = setting(Config(eps=("2/255", "0.3"), networks=("deep2",), epochs=3, samples=7))
    assert chosen.epsilons == (2 / 255, 0.3)
    assert [row.name for row in subjects.rows(chosen)][:2] == [
        "deep2 2/255 standard", "deep2 2/255 dual",
    ]  # fmt: skip
    assert (chosen.recipe.epochs, chosen.samples) == (3, 7)
    assert chosen.recipe.batch_size == PRESETS["quick"].recipe.batch_size


def test_released_networks_are_found(shared):
    source = tfds("mnist", data_dir=shared / "tensorflow_datasets")
    test = source.read("test", np.arange(4))
    mnist = data.Dataset("mnist", "MNIST", 10, test, Split(test.x[:0], test.y[:0]), test)
    chosen = dataclasses.replace(PRESETS["mnist-released"], limit=3)
    found = list(released.subjects(chosen, mnist, shared / "pretrained"))
    assert [s.row.name for s in found] == ["small 0.1 standard", "small 0.1 dual"]
    assert all(s.examples.size == 3 for s in found)
    assert found[0].model is found[1].model
    assert (shared / "reference" / released.REFERENCE).is_file()
    for _, stem, _, _, _ in released.CASCADES:
        assert (shared / "pretrained" / f"{stem}.npz").is_file()


@pytest.mark.slow
def test_har_is_read_trained_on_and_certified_in_halved_radii(tmp_path):
    """On made-up files of the published shape, whose classes lie far apart in a few features."""
    draw = np.random.default_rng(0)
    for split, count in (("train", 96), ("test", 24)):
        (tmp_path / split).mkdir()
        y = np.arange(count) % 6
        x = np.clip(0.1 * draw.normal(size=(count, 561)), -1, 1)
        x[np.arange(count), y] = 0.9
        np.savetxt(tmp_path / split / f"X_{split}.txt", x, fmt="%.7e")
        np.savetxt(tmp_path / split / f"y_{split}.txt", y + 1, fmt="%d")
    config = Config(
        preset="har", har_dir=tmp_path, out=tmp_path / "runs", progress=False, eps=("0.025",),
        methods=("dual",), epochs=40, train_batch_size=16, learning_rate=1e-3, limit=24,
        certificates=("Wong-Kolter",),
    )  # fmt: skip
    assert [r.name for r in subjects.rows(setting(dataclasses.replace(config, methods=None)))] == [
        "signed500 0.025 standard", "signed500 0.025 dual",
    ]  # fmt: skip
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        (row,) = main(config)["table"]
    assert row["Clean"] == 0
    assert row["Clean"] <= row["fgsm"] <= row["Wong-Kolter"] < 100
    assert row["in the thesis"].startswith("clean/FGSM/bound 9.20/22.20/22.80")
    module, options = recipes.NETWORKS["signed500"]
    network = models.build(module, 6, options)
    x = jnp.asarray(draw.uniform(size=(2, 561)), jnp.float32)
    plain = models.build("mlp", 6, {"widths": (500,)})
    variables = plain.init(jax.random.key(0), x)
    assert jnp.allclose(network.apply(variables, x), plain.apply(variables, 2 * x - 1), atol=1e-4)


TINY = Recipe(
    model="", epsilon=0.0, step_size=0.0, steps=0, epochs=1, batch_size=32, optimizer="adam",
    learning_rate=4e-3, schedule="constant", ramp=0.5,
)  # fmt: skip


@pytest.fixture
def tiny(monkeypatch):
    """The quick preset with one hidden layer, few images and short searches."""
    monkeypatch.setitem(recipes.NETWORKS, "wide1", recipes.Network("mlp", {"widths": (12,)}))
    preset = dataclasses.replace(
        PRESETS["quick"],
        recipe=TINY,
        methods=("interval",),
        epsilons=(0.02,),
        limit=8,
        radii=4,
        exact=1,
        attack_steps=3,
        parts=("table", "cascade", "radii"),
    )
    monkeypatch.setitem(PRESETS, "quick", preset)
    monkeypatch.setattr("experiments.provable.measure.SLOPE_STEPS", 2)
    monkeypatch.setattr("experiments.provable.measure.RADIUS_STEPS", 3)


@pytest.mark.slow
def test_the_study_writes_tables_and_figures_and_resumes(tmp_path, monkeypatch, capsys, tiny):
    config = Config(
        out=tmp_path, progress=False, train_limit=96, batch_size=8, attacks=("pgd",),
        certificates=("interval", "optimized"), seeds=(0, 1),
    )  # fmt: skip
    # The experiment itself runs under JAX's defaults: Adam's bias correction promotes dtypes.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        made = main(config)
        (row,) = made["table"]
        assert (row["method"], row["seeds"]) == ("wide1 0.02 interval", 2)
        assert row["Clean"] <= row["pgd"] <= row["optimized"] <= row["interval"]
        assert row["undecided"] == pytest.approx(row["optimized"] - row["pgd"])
        assert row["Clean std"] is not None
        for stage in made["cascades"]:
            assert stage["published"] <= stage["strict"] <= stage["unanimous"]
        folder = tmp_path / "quick" / "first8"
        for name, there in made.items():
            assert json.loads((folder / f"{name}.json").read_text())["rows"] == there
        assert {"table", "cascades"} <= made.keys()
        assert [file.stem for file in folder.glob("*.png")] == ["figure7_radii"]
        assert len(list((folder / "sandwich").glob("*.json"))) == 2
        assert "errors in % on the first 8 test images" in capsys.readouterr().out

        histories = sorted((tmp_path / "quick").glob("*/metrics.jsonl"))
        assert len(histories) >= 2
        saved = {f: f.stat().st_mtime_ns for f in folder.glob("**/*.npz")}
        trained = [file.read_text() for file in histories]
        monkeypatch.setattr(provable.figures, "save_figure", lambda figure, path: path)
        assert main(config) == made
        assert [file.read_text() for file in histories] == trained
        assert {f: f.stat().st_mtime_ns for f in folder.glob("**/*.npz")} == saved


@pytest.mark.slow
def test_trainings_are_followed_and_resume(tmp_path, monkeypatch, tiny):
    small = {"methods": ("dual",), "watched": 16, "projections": (3,), "stages": 2}
    monkeypatch.setitem(PRESETS, "quick", dataclasses.replace(PRESETS["quick"], **small))
    config = Config(
        out=tmp_path, progress=False, train_limit=96, epochs=2,
        parts=("curves", "projections", "stages"),
    )  # fmt: skip
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        made = main(config)
        assert [row["method"] for row in made["curves"]] == ["wide1 0.02 dual"]
        assert [row["method"] for row in made["projections"]] == ["exact", "k 3"]
        exact = made["projections"][0]
        # The same run: what Figure 3.6 shows is the row of exact bounds in Figure 3.21.
        assert {**exact, "method": ""} == {**made["curves"][0], "method": ""}
        assert exact["gap"] == pytest.approx(
            exact["test robust error"] - exact["train robust error"]
        )
        folder = tmp_path / "quick" / "first8"
        names = {"figure6_curves", "figure21_projections", "figure18_stages"}
        assert names == {file.stem for file in folder.glob("*.png")}
        histories = sorted((tmp_path / "quick").glob("*/metrics.jsonl"))
        stages = [h for h in histories if "stage" in h.parent.name]
        assert len(histories) == len(stages) + 2
        first = json.loads(stages[0].read_text().splitlines()[-1])
        # With one stage the cascade is that network: its error on test images, not on its own.
        watched = json.loads((next(h for h in histories if h.parent.name.endswith("seed0-watched")))
                             .read_text().splitlines()[-1])  # fmt: skip
        assert first["cascade error"] == pytest.approx(watched["test robust error"])
        assert first["stage error"] == pytest.approx(watched["train robust error"])
        trained = [file.read_text() for file in histories]
        assert main(config) == made
        assert [file.read_text() for file in histories] == trained


def test_parts_that_train_are_not_of_the_released_networks(tmp_path):
    config = Config(preset="mnist-released", pretrained_dir=tmp_path, parts=("curves",))
    with pytest.raises(ValueError, match="no training to follow in the parts curves, projections"):
        setting(config)


@pytest.mark.slow
def test_costs_of_bounds(monkeypatch):
    monkeypatch.setattr(costs, "REPEATS", 1)
    (row,) = costs.cost_rows((2,), 3, (4, 4, 1))
    assert (row["method"], row["hidden units"]) == ("2 filters", 64)
    for name in ("exact", "projected"):
        assert row[f"{name} ms"] > 0
        assert 0 < row[f"{name} MB"] < 1


def test_figures_hold_what_they_are_given():
    found = {"robust": (np.asarray([0.2, 0.0, 0.1]), np.asarray([True, False, True]))}
    (panel,) = plots.radius_ranks(found, 0.1).axes
    line, wrong, trained = panel.lines[:3]
    np.testing.assert_allclose(line.get_ydata(), [0.05, 0.1, 0.2])
    np.testing.assert_allclose(line.get_xdata(), [100 / 6, 50, 500 / 6])
    np.testing.assert_allclose(wrong.get_xydata(), [[100 / 6, 0.05]])
    assert set(trained.get_ydata()) == {0.1}
    rows = [{"hidden units": n, "exact ms": n, "exact MB": n, "projected ms": 1, "projected MB": 2}
            for n in (3, 5)]  # fmt: skip
    seconds, memory = plots.costs(rows).axes
    np.testing.assert_allclose(seconds.lines[0].get_xydata(), [[3, 3], [5, 5]])
    assert [line.get_label() for line in memory.lines] == ["exact", "projected"]
    panels = plots.estimator_histograms({"random": {10: np.zeros(4), 50: np.ones(4)}}).axes
    assert "mean 1.00" in panels[1].texts[0].get_text()
