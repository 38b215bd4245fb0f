"""The headline on a few digits: the command as a user runs it, its clock and its arithmetic."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

import numpy as np
import pytest

from experiments.common.options import Options
from experiments.common.rows import Outcome
from experiments.headline import costs, methods, recipes
from experiments.headline.__main__ import main
from experiments.headline.config import Config, setting
from experiments.headline.deadline import Deadline
from experiments.headline.judging import missing
from experiments.headline.tables import front
from jaxrobust import data

pytestmark = pytest.mark.usefixtures("default_promotion", "one_device")


def small(out: Path, **changes) -> Config:
    options = {
        "seeds": (0,),
        "epochs": 2,
        "limit": 96,
        "test_limit": 40,
        "batch_size": 32,
        "autoattack": 0,
        "out": out,
        "progress": False,
    }
    own = {"rows": ("pgd", "dale"), "rho": (0.3,), "images": 20}
    common = {name: changes.pop(name) for name in list(changes) if hasattr(Options, name)}
    return Config(options=Options(**(options | common)), **(own | changes))


@pytest.mark.slow
def test_table_figure_and_resume(tmp_path, capsys):
    table = main(small(tmp_path))
    folder = tmp_path / "digits-quick"
    assert [row["method"] for row in table] == ["pgd", "dale rho=0.3"]
    pgd, dale = table
    assert pgd["nu"] is None
    assert dale["holds"] in ("0/1", "1/1")
    assert {"Clean", "FGSM", "PGD-50-10 (20)"} <= pgd.keys()
    assert pgd["training s"] > 0
    assert pgd["images/s"] > 0
    # DALE's step is two updates instead of one: with 7 steps, 20 passes against 17.
    flops = {r["method"]: r["% of peak"] / r["images/s"] for r in table}
    assert flops["dale rho=0.3"] / flops["pgd"] == pytest.approx(20 / 17)
    assert (folder / "trade_off.png").stat().st_size > 1000
    assert json.loads((folder / "table.json").read_text())["rows"] == table
    assert "not done" not in capsys.readouterr().out

    trained = (folder / "pgd-seed0" / "metrics.jsonl").read_text()
    again = main(small(tmp_path))
    assert (folder / "pgd-seed0" / "metrics.jsonl").read_text() == trained
    accuracies = [{k: v for k, v in row.items() if k != "% of peak"} for row in table]
    assert [{k: v for k, v in row.items() if k != "% of peak"} for row in again] == accuracies


@pytest.mark.slow
def test_time_that_runs_out_keeps_what_is_done_and_the_next_call_goes_on(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="give more --minutes"):
        main(small(tmp_path, minutes=1e-9))
    # An epoch is trained and the clock then stops the run: it is not shown as if it were whole.
    monkeypatch.setattr(Deadline, "stop", lambda self, history: len(history) >= 1)
    with pytest.raises(ValueError, match="no row was trained to its end"):
        main(small(tmp_path, rows=("pgd",), minutes=5.0))
    history = tmp_path / "digits-quick" / "pgd-seed0" / "metrics.jsonl"
    first = history.read_text()
    assert len(first.splitlines()) == 1
    monkeypatch.undo()
    main(small(tmp_path, rows=("pgd",), minutes=5.0))
    assert history.read_text().startswith(first)
    assert len(history.read_text().splitlines()) == 2


def test_a_deadline_begins_what_can_end_in_time(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    deadline = Deadline(1.0)
    assert deadline.allows("training")
    with deadline.spent("training"):
        now[0] = 25.0
    assert deadline.allows("training")
    with deadline.spent("training"):
        now[0] = 36.0
    assert not deadline.allows("training"), "25 s were needed before, 24 are left"
    assert deadline.allows("attack")
    assert deadline.stop([{"seconds": 24.0}])
    assert not deadline.stop([{"seconds": 20.0}])
    endless = Deadline(None)
    now[0] = 1e9
    assert endless.allows("training")
    assert Deadline(float("inf")).allows("training")
    with pytest.raises(ValueError, match="minutes must be finite and above 0"):
        Deadline(0.0)


def test_what_is_missing_is_named():
    made = [methods.Row(methods.Method(name, None), name, "", 5) for name in ("a", "b")]
    trained = [Outcome("a", 0, {}, {}, [], {}), Outcome("a", 1, {}, {}, [], {})]
    found = {("a", 0): {"PGD (9)": 1.0}, ("a", 1): {}}
    assert missing(made, trained, found, seeds=(0, 1)) == (
        "training b (seed 0), training b (seed 1), PGD (9) of a"
    )
    assert missing(made[:1], trained, {k: {"PGD (9)": 1.0} for k in found}, seeds=(0, 1)) == ""


def test_arithmetic_of_the_digits_network():
    """XLA's count against the matrix products of its four layers by hand, nearly all there is."""
    digits = data.load("digits", limit=8)
    counted = costs.forward_flops(recipes.SETTINGS["digits"].recipe, digits)
    # the second one multiplies the row of blocks at the edge as well: 5 rows for 4
    convolutions = 8 * 8 * (3 * 3 * 1 * 16) + 5 * 4 * (4 * 4 * 16 * 32)
    products = 2 * (convolutions + 512 * 64 + 64 * 10)
    assert products < counted < 1.02 * products


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": ("pdg",)}, "did you mean 'pgd'"),
        ({"rows": ()}, "--rows is empty"),
        ({"rho": (0.1, 0.1)}, "rho holds a value twice"),
        ({"images": 0}, "images must be a whole number of at least 1"),
        ({"preset": "paper"}, "unknown preset 'paper'"),
        ({"minutes": -1.0}, "minutes must be finite and above 0"),
    ],
)
def test_impossible_settings(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        main(small(tmp_path, **changes))


def test_every_family_makes_its_rows(tmp_path):
    config = small(tmp_path, rows=tuple(methods.ROWS), rho=(0.1, 0.2), beta=(1.0, 6.0))
    chosen = setting(config)
    digits = data.load("digits", limit=96)
    made = methods.rows_of(config.rows, chosen.recipe, digits, rho=chosen.rho, beta=chosen.beta)
    names = [row.method.name for row in made]
    assert names == [
        "n_fgsm", "fgsm_rs", "pgd", "trades beta=1", "trades beta=6", "dale rho=0.1",
        "dale rho=0.2", "kl_dale rho=0.1", "kl_dale rho=0.2",
    ]  # fmt: skip
    assert [row.passes for row in made] == [5, 5, 17, 21, 21, 20, 20, 21, 21]
    assert [row.method.rho for row in made[-2:]] == [0.1, 0.2]


def test_the_front_is_drawn_under_the_strongest_attack_that_judged_all():
    @dataclasses.dataclass
    class Run:
        method: str
        seed: int
        accuracies: dict

    made = [methods.Row(methods.Method(n, None), "family", n, 5) for n in ("a", "b")]
    runs = [Run(n, 0, {"Clean": 90.0, "FGSM": 60.0}) for n in ("a", "b")]
    found = {("a", 0): {"PGD": 40.0, "AA": 30.0}, ("b", 0): {"PGD": 45.0}}
    (panel,) = front(made, runs, found).axes
    assert panel.get_ylabel() == "PGD accuracy (%)"
    np.testing.assert_allclose(panel.containers[0].lines[0].get_ydata(), [40, 45])
