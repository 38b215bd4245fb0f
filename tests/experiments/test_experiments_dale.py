"""The DALE experiment on a few digits: the command as a user runs it."""

import json
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import pytest

from experiments.common.options import Options
from experiments.common.recipes import CIFAR10, DALE, recipe
from experiments.dale.__main__ import main
from experiments.dale.config import Config, settings_of
from experiments.dale.methods import methods, sampling_attacks
from jaxrobust import attacks, data

ROOT = Path(__file__).resolve().parents[2]

# The experiment itself runs under JAX's defaults: Adam's bias correction promotes dtypes.
pytestmark = pytest.mark.usefixtures("default_promotion")


def small(out: Path, **changes) -> Config:
    options = {
        "seeds": (0, 1),
        "epochs": 2,
        "limit": 128,
        "batch_size": 32,
        "out": out,
        "progress": False,
    }
    settings = {"methods": ("erm", "dale"), "rho": (0.2,)}
    common = {name: changes.pop(name) for name in list(changes) if hasattr(Options, name)}
    return Config(options=Options(**(options | common)), **(settings | changes))


@pytest.mark.slow
def test_the_study_writes_its_table_and_figures_and_resumes_without_training(tmp_path, capsys):
    rows = main(small(tmp_path))
    folder = tmp_path / "digits-quick"

    assert [row["method"] for row in rows] == ["erm", "dale rho=0.2"]
    assert all(row["seeds"] == 2 for row in rows)
    saved = json.loads((folder / "table.json").read_text())["rows"]
    assert saved == rows
    for row in rows:
        # The table's means are those of the per-run reports.
        for column, key in (("Clean", "clean"), ("FGSM", "FGSM")):
            accuracies = []
            for seed in (0, 1):
                run = folder / f"{row['method'].replace(' ', '-')}-seed{seed}"
                report = json.loads((run / "test_last.json").read_text())
                mask = report["clean"] if key == "clean" else report["attacks"][key]["robust"]
                accuracies.append(100 * sum(mask) / len(mask))
            assert row[column] == pytest.approx(sum(accuracies) / 2)
    assert (folder / "figure1_perturbations.png").stat().st_size > 1000
    assert (folder / "figure2_dale_rho=0.2.png").stat().st_size > 1000
    assert "dale rho=0.2" in capsys.readouterr().out

    history = folder / "dale-rho=0.2-seed0" / "metrics.jsonl"
    trained = history.read_text()
    assert len(trained.splitlines()) == 2
    assert main(small(tmp_path)) == rows
    assert history.read_text() == trained  # timings included: no epoch ran again


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", limit=128)


def test_every_method_and_fixed_multiplier_makes_a_row(tmp_path, digits):
    names = ("erm", "fgsm", "pgd", "trades", "dale", "kl_dale", "reverse_dale")
    config = small(tmp_path, methods=names, rho=(0.1, 0.5), nu=(0.3,))
    rows = methods(config, settings_of(config), digits)
    assert [row.name for row in rows] == [
        *names[:4],
        *(f"{name} rho={rho}" for name in names[4:] for rho in (0.1, 0.5)),
        "dale nu=0.3",
    ]
    for row in rows:
        assert row.defense.constrained == (row.multiplier is not None)
    held = rows[-1].multiplier
    state = held.init()
    assert held.update(state, state.value + 1).value == pytest.approx(0.3)


def test_the_epoch_option_moves_the_multiplier_once_an_epoch(tmp_path, digits):
    # 128 images make two batches of 64 an epoch.
    changes = {"dual": "ascent", "dual_update": "epoch", "dual_step": 0.5, "batch_size": 64}
    config = small(tmp_path, methods=("dale",), **changes)
    (row,) = methods(config, settings_of(config), digits)
    state = row.multiplier.init()
    violation = state.value + 1.0
    state = row.multiplier.update(state, violation)
    assert state.value == 0
    state = row.multiplier.update(state, 2 * violation)
    assert state.value == pytest.approx(0.5 * 1.5)


def test_the_controllers_gains_are_those_of_a_whole_run(tmp_path, digits):
    """A violation as large as rho throughout adds integral / 4: strength grows as its cube."""
    ends = []
    for epochs in (10, 40):
        changes = {"dual_integral": 9.0, "dual_proportional": 2.0, "batch_size": 64}
        config = small(tmp_path, methods=("dale",), epochs=epochs, **changes)
        (row,) = methods(config, settings_of(config), digits)
        state = row.multiplier.init()
        for _ in range(2 * epochs):
            state = row.multiplier.update(state, jnp.asarray(row.rho))
        ends.append(float(state.value))
    assert ends == pytest.approx([9 / 4, 9 / 4], rel=0.1)
    assert settings_of(small(tmp_path)).dual == "pi"


@pytest.mark.parametrize("start", ["uniform", "gaussian", "clean"])
def test_one_start_for_every_attack_of_several_steps(tmp_path, start):
    config = small(tmp_path, start=start)
    found = sampling_attacks(settings_of(config))
    assert {found[n].settings["start"] for n in ("pgd", "dale")} == {getattr(attacks, start)}


def test_recipes_carry_the_papers_settings():
    cifar = recipe("cifar10", "paper", DALE)
    assert (cifar.model, cifar.epsilon, cifar.steps) == ("resnet18", 8 / 255, 10)
    assert (cifar.eval_steps, cifar.eval_step_size, cifar.rho) == (20, 0.003, (0.5, 0.8, 1.0))
    mnist = recipe("fashion_mnist", "paper", DALE)
    assert (mnist.model, mnist.epsilon, mnist.steps, mnist.step_size) == ("dale_mnist", 0.3, 7, 0.1)
    assert recipe("svhn_cropped", "quick") == CIFAR10
    assert recipe("digits", "quick", epochs=3).epochs == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ("dalle",)}, "unknown method 'dalle'; did you mean 'dale'?"),
        ({"dataset": "digit"}, "digits"),
        ({"batch_size": 1000}, "batch"),
        ({"rho": (-0.5,)}, "rho must be finite and at least 0, got -0.5"),
        ({"model": "resnet"}, "unknown network 'resnet'"),
        ({"dataset": "stl10"}, "unknown data set for a recipe 'stl10'"),
        ({"methods": ("erm", "erm")}, "methods holds a value twice: erm erm"),
        ({"seeds": (0, 0)}, "seeds holds a value twice: 0 0"),
        ({"seeds": ()}, "at least one of --seeds"),
    ],
)
def test_mistakes_name_the_value(tmp_path, changes, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message.replace("?", r"\?")):
        main(small(tmp_path, **changes))


def test_the_command_ends_a_mistake_in_one_line():
    done = subprocess.run(
        [sys.executable, "-m", "experiments.dale", "--methods", "dalle"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.strip().endswith(
        "error: unknown method 'dalle'; did you mean 'dale'? "
        "Known: alp, clp, dale, erm, fgsm, kl_dale, mart, pgd, reverse_dale, trades"
    )
    assert "Traceback" not in done.stderr
