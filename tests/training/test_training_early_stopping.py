"""When runs end early, and that a resumed one does not go on."""

from __future__ import annotations

from pathlib import Path

import pytest
from training.training_cases import images, linear, sgd

from jaxrobust import defenses
from jaxrobust.training import collapsed, fit, stalled
from jaxrobust.types import Variables

NAN = float("nan")


def rows(*scores: float) -> list[dict[str, float]]:
    return [{"score": score} for score in scores]


def test_a_collapse_is_a_fall_within_an_epoch() -> None:
    stop = collapsed("score", drop=20)
    assert not stop(rows(10))
    assert not stop(rows(50, 35, 20))
    assert stop(rows(10, 50, 29))
    assert not stop(rows(50, 30))
    assert not stop(rows(60, 0, 5))


def test_a_stall_is_counted_from_the_best_epoch() -> None:
    stop = stalled("score", epochs=2)
    assert [stop(rows(*[3, 1, 4, 4, 2][: n + 1])) for n in range(5)] == [False] * 4 + [True]
    assert stop(rows(1, NAN, NAN))
    assert not stop(rows(NAN, NAN, 0))


@pytest.mark.parametrize(("rule", "value"), [(collapsed, {"drop": 0}), (stalled, {"epochs": 0})])
def test_impossible_rules_are_refused(rule, value) -> None:
    with pytest.raises(ValueError, match="got 0"):
        rule("score", **value)


def test_a_collapsed_run_ends_and_its_best_epoch_is_the_one_before(tmp_path: Path) -> None:
    scores = iter([0.0, 30.0, 60.0, 5.0])

    def train(epochs: int = 6) -> object:
        return fit(
            0, linear(), defenses.erm(), images(), sgd(), epochs=epochs, batch_size=16,
            run=tmp_path, config={}, best_by="score", stop=collapsed("score", drop=20),
            validate=lambda variables: {"score": next(scores)}, progress=False,
        )  # fmt: skip

    for _ in range(2):  # the second time it is read, and goes no further
        run = train()
        assert [row["score"] for row in run.history] == [30, 60, 5]
        assert int(run.best.step) == run.history[1]["step"]
        assert int(run.state.step) == run.history[2]["step"]


def test_an_unknown_metric_is_named(tmp_path: Path) -> None:
    def validate(variables: Variables) -> dict[str, float]:
        return {"score": 1.0}

    with pytest.raises(ValueError, match=r"'scrore' is no metric of this run; it has: .*score"):
        fit(
            0, linear(), defenses.erm(), images(), sgd(), epochs=2, batch_size=16, run=tmp_path,
            config={}, validate=validate, stop=stalled("scrore", epochs=1), progress=False,
        )  # fmt: skip
