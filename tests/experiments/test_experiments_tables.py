"""What tables say of runs beside their accuracies: constraints and collapses."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

from experiments.common.recipes import DIGITS
from experiments.common.rows import BEST_BY, Outcome
from experiments.common.runner import judged_network, network, study
from experiments.common.tables import cells, collapse, collapses, constraint, summarize
from jaxrobust import data


class Accuracies(NamedTuple):
    """Stands for a report: summaries read its accuracies alone."""

    clean_accuracy: float = 90.0
    attacks: Mapping[str, Any] = MappingProxyType({})


def constrained(nu: float, violation: float, rho: float = 0.2, *, method: str = "dale") -> Outcome:
    early = {"multiplier": 5.0, "train_violation": 2.0}
    history = [early, {"multiplier": nu, "train_violation": violation}]
    return Outcome(method, 0, {"last": Accuracies()}, {}, history, {}, rho)


def robust(*values: float) -> list[dict]:
    return [{BEST_BY: value} for value in values]


@pytest.mark.parametrize(
    ("nu", "violation", "holds", "settled"),
    [
        (1.0, -0.02, "1/1", "1/1"),
        (1.0, 0.02, "1/1", "1/1"),
        (1.0, 0.04, "0/1", "0/1"),
        (1.0, -0.1, "1/1", "0/1"),
        (0.0, -0.1, "1/1", "1/1"),
        (0.0, 0.1, "0/1", "0/1"),
    ],
)
def test_a_constraint_is_settled_by_complementary_slackness(nu, violation, holds, settled) -> None:
    """Wound up (nu > 0 beside a slack constraint) is not settled, nor is a violated constraint."""
    assert constraint([constrained(nu, violation)]) == {
        "nu": nu,
        "slack": pytest.approx(-violation),
        "holds": holds,
        "settled": settled,
    }


def test_runs_of_a_row_are_counted_and_their_figures_are_means() -> None:
    rows = summarize([constrained(1.0, 0.0), constrained(0.0, 0.1), constrained(2.0, -0.1)])
    (row,) = rows
    assert row["nu"] == pytest.approx(1.0)
    assert row["slack"] == pytest.approx(0.0)
    assert (row["holds"], row["settled"]) == ("2/3", "1/3")


def test_rows_without_a_constraint_say_nothing_of_it() -> None:
    plain = Outcome("pgd", 0, {"last": Accuracies()}, {}, [{}], {})
    first, second = summarize([plain, constrained(0.0, -0.1)])
    assert (first["nu"], first["holds"]) == (None, None)
    assert second["settled"] == "1/1"
    assert "nu" not in summarize([plain])[0]
    assert cells(first)["settled"] == ""


def test_a_collapse_is_a_fall_within_an_epoch_or_one_that_is_not_regained() -> None:
    assert collapse(robust(10, 50, 29, 60)) == 2
    assert collapse(robust(10, 50, 35, 31)) is None
    assert collapse(robust(10, 50, 35, 20)) == 2
    assert collapse(robust(10, 50, 35, 31), drop=14) == 2
    assert collapse([{}, {}]) is None
    assert collapse(robust(0, 0, 0)) is None


def test_every_table_marks_collapsed_runs() -> None:
    def outcome(method: str, *values: float) -> Outcome:
        return Outcome(method, 0, {"last": Accuracies()}, {}, robust(*values), {})

    fell, stood = outcome("fgsm", 40, 0), outcome("fgsm", 40, 41)
    assert collapses([fell, stood]) == "1/2"
    rows = summarize([fell, stood, outcome("pgd", 40, 45)])
    assert [row["collapsed"] for row in rows] == ["1/2", "0/1"]
    assert "collapsed" not in summarize([stood])[0]


@pytest.mark.usefixtures("default_promotion")
def test_float16_networks_are_judged_in_float32() -> None:
    """Where their gradients vanish attacks stand still; others are judged as they are trained."""
    digits = data.load("digits", limit=64)
    for dtype, expected in (("float16", "float32"), ("bfloat16", "bfloat16")):
        recipe = dataclasses.replace(DIGITS, dtype=dtype)
        assert judged_network(recipe, digits) is network("digits_cnn", expected, digits)
        assert study(recipe, digits).model is network("digits_cnn", dtype, digits)
