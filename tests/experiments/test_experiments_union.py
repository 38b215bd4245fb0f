"""Training for a union of norms on a few digits: the command as a user runs it, and its sums."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common.options import Options
from experiments.union.__main__ import main
from experiments.union.config import Config, load, setting
from experiments.union.methods import ROWS, rows_of, training_attacks
from experiments.union.recipes import SETTINGS
from experiments.union.suite import ATTACKS, steepest, suite, worst_cases
from jaxrobust import attacks, defenses, training
from jaxrobust.evaluation import AttackReport, Report, Timing, compiled
from jaxrobust.threats import L1, L2, Linf

# The experiment itself runs under JAX's defaults: Adam's bias correction promotes dtypes.
pytestmark = pytest.mark.usefixtures("default_promotion")

NORMS = ("linf", "l2", "l1")


def small(out: Path, **changes) -> Config:
    options = {
        "seeds": (0, 1),
        "epochs": 1,
        "limit": 64,
        "batch_size": 32,
        "model": "mlp",
        "out": out,
        "progress": False,
    }
    common = {name: changes.pop(name) for name in list(changes) if hasattr(Options, name)}
    settings = {"methods": ("msd",), "attacks": ("pgd", "fgsm"), "restarts": 1, "images": 40}
    return Config(options=Options(**(options | common)), **(settings | changes))


@pytest.mark.slow
def test_the_table_is_the_worst_case_of_the_reports_and_a_second_call_only_reads(
    tmp_path, capsys, monkeypatch
):
    (row,) = main(small(tmp_path))
    folder = tmp_path / "digits-quick"
    found = {column: [] for column in ("Clean", *NORMS, "all")}
    for seed in (0, 1):
        (file,) = (folder / f"msd-seed{seed}").glob("attacks_restarts1_*_first40/report.json")
        report = json.loads(file.read_text())
        robust = {name: np.asarray(a["robust"], bool) for name, a in report["attacks"].items()}
        assert set(robust) == {"linf pgd", "linf fgsm", "l2 pgd", "l1 pgd"}
        balls = {"linf": robust["linf pgd"] & robust["linf fgsm"]}
        balls |= {"l2": robust["l2 pgd"], "l1": robust["l1 pgd"]}
        balls["all"] = balls["linf"] & balls["l2"] & balls["l1"]
        found["Clean"].append(100 * np.mean(report["clean"]))
        for name, mask in balls.items():
            assert len(mask) == 40
            found[name].append(100 * mask.mean())
    for column, values in found.items():
        assert row[column] == pytest.approx(np.mean(values))
        assert row[f"{column} std"] == pytest.approx(np.std(values, ddof=1))
    assert row["average"] == pytest.approx(np.mean([row[norm] for norm in NORMS]))
    (every,) = json.loads((folder / "attacks.json").read_text())["rows"]
    assert row["linf"] <= min(every["linf pgd"], every["linf fgsm"])
    for norm in NORMS:
        assert (folder / f"figure9_{norm}.png").stat().st_size > 1000
    assert "worst case over pgd fgsm" in capsys.readouterr().out

    metrics = {p: p.read_text() for p in folder.glob("msd-seed*/metrics.jsonl")}
    assert len(metrics) == 2

    def attacked(*args, **options):
        raise AssertionError("a batch is attacked again")

    monkeypatch.setattr(compiled, "attack_program", attacked)
    assert main(small(tmp_path)) == [row]
    # Timings included: no epoch ran again.
    assert all(path.read_text() == text for path, text in metrics.items())


def report_of(clean, **robust) -> Report:
    timing, count = Timing(0.0, 0.0, 1), len(clean)
    made = {
        name.replace("_", " ", 1): AttackReport(
            np.asarray(mask, bool),
            np.ones(count, bool),
            np.zeros(count),
            np.zeros(count),
            1.0,
            1.0,
            timing,
        )
        for name, mask in robust.items()
    }
    return Report(np.asarray(clean, bool), timing, made, {})


def test_the_worst_case_is_per_image_and_not_the_least_accuracy():
    found = worst_cases(
        report_of(
            [1, 1, 1, 1, 0],
            linf_pgd=[1, 1, 1, 0, 0],
            linf_fgsm=[1, 1, 0, 1, 0],
            l2_pgd=[1, 0, 1, 1, 0],
            l1_pgd=[1, 1, 1, 1, 0],
        )
    )
    expected = {"Clean": 80, "linf": 40, "l2": 60, "l1": 80, "all": 20, "average": 60}
    assert found == pytest.approx(expected)


def test_the_suite_runs_every_attack_in_its_balls():
    chosen = SETTINGS["mnist", "paper"]
    made = suite(tuple(ATTACKS), chosen)
    assert set(made) == {
        "linf pgd", "linf fgsm", "linf mim", "l2 pgd", "l2 deepfool", "l2 ddn", "l2 cw", "l2 noise",
        "l2 pointwise", "l2 boundary", "l1 pgd", "l1 ead", "l1 apgd", "l1 salt-and-pepper",
        "l1 pointwise",
    }  # fmt: skip
    linf, l2, l1 = (made[f"{norm} pgd"].settings for norm in NORMS)
    assert all(one["count"] == 10 for one in (linf, l2, l1))
    linf, l2, l1 = (one["attack"].settings for one in (linf, l2, l1))
    assert (linf["threat"], linf["step_size"], linf["steps"]) == (Linf(0.3), 0.01, 100)
    assert (l2["threat"], l2["step_size"], l2["steps"]) == (L2(1.5), 0.1, 200)
    assert (l1["threat"].members, l1["step_sizes"], l1["steps"]) == ((L1(12.0),), (0.05,), 100)
    assert l1["coordinates"] == (5, 20)


def test_training_attacks_are_the_thesis():
    made = {name: a.settings for name, a in training_attacks(SETTINGS["cifar10", "paper"]).items()}
    assert [made[norm]["steps"] for norm in NORMS] == [40, 50, 50]
    assert made["linf"]["threat"] == Linf(0.03)
    assert (made["l2"]["step_size"], made["l1"]["step_sizes"]) == (0.05, (0.1,))
    assert all(one["keep"] == "last" for one in made.values())


def test_an_l1_step_moves_five_to_twenty_pixels_by_its_length_together():
    w = jnp.asarray(np.random.default_rng(0).normal(size=64), jnp.float32)

    def f(x):
        return jnp.stack([jnp.zeros(()), jnp.vdot(w, x)])

    x, y = jnp.full(64, 0.5), jnp.asarray(0)
    attack = steepest(L1(2.0), step_size=0.4, steps=1, start=attacks.clean)
    run = jax.jit(lambda key: attack(key, f, x, y).x - x)
    counts = set()
    for seed in range(6):
        moved = np.asarray(run(jax.random.key(seed)))
        changed = np.flatnonzero(moved)
        counts.add(len(changed))
        assert np.abs(moved).sum() == pytest.approx(0.4, rel=1e-4)
        largest = np.argsort(-np.abs(np.asarray(w)))[: len(changed)]
        assert set(changed) == set(largest)
    assert min(counts) >= 5
    assert max(counts) <= 20
    assert len(counts) > 1


def test_settings_carry_the_thesis_numbers():
    mnist, cifar = SETTINGS["mnist", "paper"], SETTINGS["cifar10", "paper"]
    assert (mnist.recipe.model, mnist.recipe.epochs) == ("union_mnist", 20)
    assert (mnist.recipe.radii, mnist.msd_radii) == ((0.3, 1.5, 12.0),) * 2
    assert (mnist.steps, mnist.msd_sizes, mnist.msd_steps) == (
        (50, 100, 50),
        (0.01, 0.2, 0.05),
        100,
    )
    assert (cifar.recipe.model, cifar.recipe.epochs) == ("preact_resnet18", 50)
    assert (cifar.recipe.radii, cifar.msd_radii) == ((0.03, 0.5, 12.0), (0.03, 0.3, 12.0))
    assert (cifar.msd_sizes, cifar.msd_steps) == ((0.003, 0.05, 0.05), 50)
    for one in (mnist, cifar):
        recipe = one.recipe
        assert (recipe.optimizer, recipe.momentum, recipe.weight_decay) == ("sgd", 0.9, 5e-4)
        assert (recipe.dtype, one.restarts, one.images) == ("float32", 10, 1000)
    # Rates at the ends of the thesis' epochs, in units of one step per epoch.
    for recipe, rates in (
        (mnist.recipe, {0: 0, 7: 0.1, 15: 1e-3, 20: 1e-4}),
        (cifar.recipe, {0: 0, 20: 0.1, 40: 5e-3, 50: 0}),
    ):
        rate = training.schedule(
            recipe.schedule, recipe.learning_rate, recipe.epochs, recipe.schedule_options
        )
        for epoch, expected in rates.items():
            assert float(rate(np.int32(epoch))) == pytest.approx(expected, rel=1e-4, abs=1e-8)


def test_every_row_has_its_method():
    made = rows_of(tuple(ROWS), SETTINGS["digits", "quick"])
    names = ["erm", *NORMS, "worst", "augmented", "msd", "msd_random"]
    assert [method.name for method in made] == names
    assert not any(method.defense.constrained for method in made)


def test_msd_starts_at_the_image_or_at_a_random_point(monkeypatch):
    made = []
    monkeypatch.setattr(attacks, "msd", lambda *a, **k: made.append(k["start"]))
    monkeypatch.setattr(defenses, "msd", lambda attack, **k: None)
    for name in ("msd", "msd_random"):
        ROWS[name](SETTINGS["mnist", "paper"])
    assert made == [attacks.clean, attacks.uniform]


def test_the_images_are_the_first_and_options_win(tmp_path):
    config = small(tmp_path, images=30, queries=7)
    chosen = setting(config)
    assert (chosen.images, chosen.queries, chosen.attacks) == (30, 7, ("pgd", "fgsm"))
    assert load(config, chosen).test.size == 30
    fewer = dataclasses.replace(config, options=dataclasses.replace(config.options, test_limit=20))
    assert load(fewer, chosen).test.size == 20


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ("msdd",)}, "unknown method 'msdd'; did you mean 'msd'?"),
        ({"attacks": ("pgdd",)}, "unknown attack 'pgdd'; did you mean 'pgd'?"),
        ({"attacks": ("fgsm", "ddn")}, "--attacks fgsm ddn has none of the l1 ball"),
        ({"methods": ("msd", "msd")}, "methods holds a value twice: msd msd"),
        ({"methods": ()}, "at least one of --methods"),
        ({"images": 0}, "images must be a whole number of at least 1, got 0"),
        ({"autoattack": 100}, "autoattack=100 judges one ball alone"),
        ({"dataset": "stl10"}, "unknown data set for a recipe 'stl10'"),
    ],
)
def test_mistakes_name_the_value(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        main(small(tmp_path, **changes))
