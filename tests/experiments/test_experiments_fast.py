"""Fast adversarial training on a few digits: the command as a user runs it, and its formulas."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common import integer_programs
from experiments.common.clock import clock
from experiments.common.options import Options
from experiments.common.rows import BEST_BY, Outcome
from experiments.fast import methods, perturbations, plots, tables
from experiments.fast.__main__ import main
from experiments.fast.config import Config, setting
from experiments.fast.recipes import RECIPES, SETTINGS
from experiments.fast.run import timed
from experiments.fast.starts import hypercube, previous
from experiments.fast.verified import shares
from jaxrobust import data
from jaxrobust.defenses import TrainContext
from jaxrobust.threats import Linf
from jaxrobust.types import Batch, Model, Variables

# The experiment itself runs under JAX's defaults: Adam's bias correction promotes dtypes.
pytestmark = pytest.mark.usefixtures("default_promotion")


def small(out: Path, part: str, **changes) -> Config:
    options = {
        "seeds": (0,),
        "epochs": 2,
        "limit": 64,
        "batch_size": 32,
        "model": "mlp",
        "out": out,
        "progress": False,
    }
    common = {name: changes.pop(name) for name in list(changes) if hasattr(Options, name)}
    return Config(
        options=Options(**(options | common)), part=part, **({"steps": 1, "restarts": 1} | changes)
    )


@pytest.mark.slow
def test_the_table_is_that_of_the_reports_and_a_second_call_trains_nothing(tmp_path, capsys):
    config = small(tmp_path, "table", methods=("zero stopped", "previous"), seeds=(0, 1))
    table = main(config)
    folder = tmp_path / "digits-quick" / "table"
    assert [row["method"] for row in table] == ["zero stopped", "previous"]
    for row, epoch in zip(table, ("best", "last"), strict=True):
        found, epochs = [], []
        for seed in (0, 1):
            run = folder / f"{row['method'].replace(' ', '-')}-seed{seed}"
            report = json.loads((run / f"test_{epoch}.json").read_text())
            mask = report["attacks"]["PGD-20-1"]["robust"]
            found.append(100 * sum(mask) / len(mask))
            epochs.append(len((run / "metrics.jsonl").read_text().splitlines()))
        assert row["PGD-20-1"] == pytest.approx(sum(found) / 2)
        assert row["epochs"] == pytest.approx(sum(epochs) / 2)
        assert row["training s"] > 0
    assert (folder / "epochs.png").stat().st_size > 1000
    assert len((folder / "epochs.csv").read_text().splitlines()) == 1 + 2 * 2
    saved = json.loads((folder / "table.json").read_text())
    assert (saved["script"], saved["source"]) == ("fast", "Wong's thesis, Table 4.1")
    assert "previous" in capsys.readouterr().out

    history = folder / "previous-seed1" / "metrics.jsonl"
    trained = history.read_text()
    assert main(config) == table
    assert history.read_text() == trained  # timings included: no epoch ran again


@pytest.mark.slow
def test_integer_programs_answer_once_and_never_contradict_the_attack(tmp_path, monkeypatch):
    config = small(tmp_path, "verified", methods=("fgsm_rs",), exact=3, epochs=20, limit=256)
    (row,) = main(config)
    assert 0 <= row["verified (3)"] <= row["verified (3)"] + row["undecided (3)"]
    assert row["verified (3)"] + row["undecided (3)"] <= row["PGD (3)"] + 1e-9
    run = tmp_path / "digits-quick" / "verified" / "fgsm_rs-seed0"
    (file,) = run.glob("exact_*.json")
    answers = [answer["status"] for answer in json.loads(file.read_text()).values()]
    assert row["verified (3)"] == pytest.approx(100 * answers.count("certified") / 3)
    assert len(answers) == pytest.approx(3 * row["PGD (3)"] / 100)

    def asked(*args, **options):
        raise AssertionError("an image is asked about again")

    monkeypatch.setattr(integer_programs, "exact_margins", asked)
    assert main(config) == [row]


@pytest.mark.slow
def test_the_race_and_the_steps_draw_their_figures(tmp_path):
    table = main(small(tmp_path, "time", methods=("fgsm_rs",), budgets=(2, 1), target=1e-3))
    assert [(row["budget"], row["epochs"]) for row in table] == [(1, 1), (2, 2)]
    folder = tmp_path / "digits-quick"
    reached = json.loads((folder / "time" / "reached.json").read_text())["rows"]
    assert [row["method"] for row in reached] == ["fgsm_rs"]
    assert (folder / "time" / "figure7_time.png").stat().st_size > 1000
    (row,) = main(small(tmp_path, "steps", ratios=(1.25,)))
    assert row["step / eps"] == 1.25
    assert {"PGD-20-1 last", "PGD-20-1 best"} < row.keys()
    assert (folder / "steps" / "figure4_steps.png").stat().st_size > 1000


def test_the_hypercube_start_is_a_corner_at_half_the_radius():
    x = jnp.full((5, 5), 0.5).at[0, 0].set(0.0)
    moved = np.asarray(hypercube(jax.random.key(0), Linf(0.3), x) - x)
    np.testing.assert_allclose(np.abs(moved), 0.15, rtol=1e-5)  # also where the box would clip
    assert {-1.0, 1.0} == set(np.sign(moved).ravel())


# Two logits, w . x and 0: the loss of label 0 falls along w, that of label 1 rises.
W = np.asarray([[1.0, -2.0, 3.0, -0.5]], np.float32)


def linear() -> Model:
    def apply(variables, x, *, train, key, axes):
        first = jnp.sum(x.reshape(len(x), -1) * variables.params, axis=1)
        return jnp.stack([first, jnp.zeros_like(first)], axis=1), ()

    return Model(lambda key, x: Variables(jnp.asarray(W)), apply)


def test_previous_starts_where_the_batch_before_ended():
    x = np.full((2, 4), 0.5, np.float32)
    x[0, 2] = 0.05
    epsilon, step = 0.1, 0.06
    batch = Batch(jnp.asarray(x).reshape(2, 1, 4, 1), jnp.asarray([0, 1]), jnp.arange(2))
    defense = previous(Linf(epsilon), shape=batch.x.shape, step_size=step)

    @jax.jit
    def loss(state, batch):
        variables, context = Variables(jnp.asarray(W)), TrainContext(state=state, progress=0.5)
        value, aux = defense.loss(jax.random.key(0), linear(), variables, batch, context)
        return value, aux.state

    state = defense.init()
    assert not state.any()
    rise = np.sign(W) * np.asarray([[-1], [1]])
    delta = np.zeros((2, 4))
    for _ in range(3):
        value, state = loss(state, batch)
        delta = np.clip(x + np.clip(delta + step * rise, -epsilon, epsilon), 0, 1) - x
        np.testing.assert_allclose(state.reshape(2, 4), delta, atol=1e-6)
        logits = np.stack([((x + delta) * W).sum(axis=1), np.zeros(2)], axis=1)
        losses = np.log(np.exp(logits).sum(axis=1)) - logits[[0, 1], [0, 1]]
        assert float(value) == pytest.approx(losses.mean(), rel=1e-5)
    one = jax.tree.map(lambda a: a[:1], batch)
    with pytest.raises(ValueError, match=r"shape \(2, 1, 4, 1\), got \(1, 1, 4, 1\)"):
        loss(state, one)


def history(*robust: float, rate: float = 50.0) -> list[dict]:
    return [
        {"step": 10 * (i + 1), "images_per_second": rate if i else 5.0, "seconds": 60.0 if not i
         else 320 / rate, BEST_BY: value, plots.FGSM: 80.0}
        for i, value in enumerate(robust)
    ]  # fmt: skip


def outcome(method: str, seed: int, *robust: float) -> Outcome:
    return Outcome(method, seed, {}, {}, history(*robust), {})


def test_perturbations_of_a_linear_classifier_end_at_the_edge_and_those_of_a_bump_do_not():
    digits = data.load("digits", limit=40)
    # With one label the attack has one direction: it lowers the score of class 0.
    one = digits.test._replace(y=np.zeros_like(digits.test.y))
    digits = dataclasses.replace(digits, test=one)
    settings = dataclasses.replace(
        RECIPES["digits", "quick"], epsilon=0.1, eval_step_size=0.02, eval_steps=40
    )

    def moves(slope):  # of class 1 over class 0, from each pixel
        def apply(variables, x, *, train, key, axes):
            score = slope(x.reshape(len(x), -1))
            return jnp.pad(score[:, None], ((0, 0), (0, 9))), ()

        model = Model(lambda key, x: Variables({}), apply)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(perturbations, "judged_network", lambda *_: model)
            outcome = Outcome("zero", 0, {}, {}, [], {"last": Variables({})})
            return perturbations.perturbations(outcome, settings, digits)

    edges = moves(lambda z: jnp.sum(z, axis=-1))
    x = digits.test.x.astype(np.float32) / 255
    assert edges.size == np.sum((x >= 0.1) & (x <= 0.9))
    assert perturbations.edge_share(edges) == 100
    # Every pixel is pulled to .5 and its steps come back over it: few are far enough for the edge.
    bump = moves(lambda z: 0.1 * jnp.sum((z - 0.5) ** 2, axis=-1))
    far = np.abs(x - 0.5)[(x >= 0.1) & (x <= 0.9)]
    assert 100 * np.mean(far > 0.12) <= perturbations.edge_share(bump)
    assert perturbations.edge_share(bump) <= 100 * np.mean(far > 0.07) < 90
    assert perturbations.histogram({"zero": edges, "pgd": bump}).axes[1].get_title() == "pgd"


def test_compiling_is_told_from_training():
    found = clock(history(1, 2, 3), 32)
    # 30 steps of 32 images at 50 a second; the first epoch took 60 s instead of 6.4.
    assert found == pytest.approx((19.2, 60 - 6.4, 50))
    assert clock(history(1), 32).steady == pytest.approx(320 / 5)
    means = timed([outcome("a", 0, 1, 2), outcome("a", 1, 1, 2, 3, 4)], 32)
    assert means["epochs"] == 3
    assert means["training s"] == pytest.approx((12.8 + 25.6) / 2)


def test_epochs_are_means_over_the_seeds_that_got_there():
    found = plots.epoch_rows([outcome("a", 0, 10, 20), outcome("a", 1, 30)])
    assert [(r["epoch"], r["seeds"], r["PGD held out"]) for r in found] == [(1, 2, 20), (2, 1, 20)]


def test_the_first_budget_to_reach_the_target_is_the_cheapest():
    table = [
        {"training": "a", "budget": 2, "training s": 4.0, "r": 40.0},
        {"training": "a", "budget": 4, "training s": 8.0, "r": 55.0},
        {"training": "a", "budget": 8, "training s": 16.0, "r": 60.0},
        {"training": "b", "budget": 2, "training s": 1.0, "r": 49.9},
    ]
    a, b = tables.first_to_reach(table, "r", 50.0)
    assert a == {"method": "a", "budget": 4, "training s": 8.0, "r": 55.0}
    assert b == {"method": "b", "budget": None, "training s": None, "r": None}


def test_verified_shares_count_what_the_attack_broke_as_broken():
    survived = np.asarray([True, False, True, True])
    found = shares(survived, {0: "certified", 2: "broken", 3: "undecided"})
    assert found == {"PGD (4)": 75.0, "verified (4)": 25.0, "undecided (4)": 25.0}


def test_recipes_and_rows_carry_the_thesis_settings():
    cifar = RECIPES["cifar10", "paper"]
    assert (cifar.model, cifar.epochs, cifar.learning_rate) == ("preact_resnet18", 30, 0.2)
    assert SETTINGS["cifar10", "paper"].restarts == SETTINGS["mnist", "paper"].restarts == 10

    digits = data.load("digits", limit=64)
    paper = SETTINGS["cifar10", "paper"]
    made = {m.name: m for m in methods.table_rows(paper, cifar, digits)}
    assert tuple(made) == methods.METHODS["table"]
    assert {n for n, m in made.items() if m.stop is not None} == {
        "zero stopped",
        "uniform 2 eps stopped",
    }
    assert made["pgd"].recipe(cifar).epochs == 40
    free = made["free"].recipe(cifar)
    assert (free.epochs, free.learning_rate) == (12, pytest.approx(0.04))
    timed_rows = methods.time_rows(paper, cifar, digits, paper.budgets)
    passes = {(name, budget): m.recipe(cifar).epochs for name, budget, m in timed_rows}
    assert passes["free", 80] == 10
    assert passes["fgsm_rs", 15] == 15
    assert ("free", 5) not in passes
    for part, make in (
        ("start", methods.start_rows(cifar)),
        ("verified", methods.verified_rows(cifar, digits)),
        ("collapse", methods.fragile_rows(cifar, digits)),
    ):
        assert tuple(m.name for m in make) == methods.METHODS[part]


def test_the_preset_gives_way_to_options(tmp_path):
    chosen = setting(small(tmp_path, "time", budgets=(3,), restarts=4, steps=9, drop=7.0))
    assert (chosen.budgets, chosen.restarts, chosen.drop) == ((3,), 4, 7.0)
    assert (chosen.recipe.steps, chosen.recipe.epochs) == (9, 2)


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("table", {"methods": ("zeroo",)}, "unknown method of the part table 'zeroo'; did you"),
        ("time", {"methods": ("zero",)}, "unknown method of the part time 'zero'"),
        ("steps", {"methods": ("zero",)}, "names no rows of the part steps"),
        ("time", {"methods": ("free",), "budgets": (4,)}, "budgets 4 hold no pass of free"),
        ("collapse", {}, "of --dataset cifar10 with --preset quick alone"),
        ("table", {"restarts": 0}, "restarts must be a whole number of at least 1, got 0"),
        ("table", {"drop": 0.0}, "drop must be finite and above 0, got 0.0"),
        ("verified", {"time_limit": -1.0}, "time_limit must be finite and above 0, got -1.0"),
        ("steps", {"ratios": (1.0, 1.0)}, "ratios holds a value twice: 1.0 1.0"),
        ("steps", {"ratios": ()}, "--ratios need a value"),
        ("time", {"budgets": (0,)}, "budgets must be finite and above 0, got 0"),
        ("table", {"dataset": "stl10"}, "unknown data set for a recipe 'stl10'"),
    ],
)
def test_mistakes_name_the_value(tmp_path, part, changes, message):
    with pytest.raises(ValueError, match=message):
        main(small(tmp_path, part, **changes))
