"""The verifying command: the order of the figures, the exact answers, and its mistakes."""

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from experiments.common.subject import Subject
from experiments.verify.__main__ import main
from experiments.verify.config import Config, default_folder
from experiments.verify.exact import SOLVERS, exact_line
from jaxrobust import data, training
from jaxrobust.evaluation import Sandwich

pytestmark = pytest.mark.usefixtures("default_promotion", "one_device")


@pytest.fixture
def run(tiny_run: tuple[Path, training.Run]) -> Path:
    return tiny_run[0]


def config_of(run: Path, out: Path, **changes: object) -> Config:
    subject = Subject(
        checkpoint=run, architecture="mlp", architecture_options=("widths=[8]",), limit=24
    )
    settings = {"eps": "0.05", "attacks": ("fgsm",), "batch_size": 24, "progress": False}
    return Config(subject=subject, out=out, **(settings | changes))


@pytest.mark.slow
def test_what_is_left_open_is_settled_by_both_solvers(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    answers = {}
    for solver in SOLVERS:
        folder = tmp_path / solver
        settled_by(solver, run, folder, capsys)
        held = json.loads((folder / f"{solver}-20s.json").read_text())
        answers[solver] = {row: answer["status"] for row, answer in held.items()}
    assert answers["milp"] == answers["branch-and-bound"]


def settled_by(
    solver: Literal["branch-and-bound", "milp"],
    run: Path,
    folder: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    config = config_of(run, folder, exact=20.0, eps="0.1", solver=solver)
    found = main(config)
    assert found.clean.sum() >= found.attacked.sum() >= found.certified.sum()
    assert found.undecided.any()
    told = capsys.readouterr().out
    assert f"{found.undecided.sum()} certified" in told or "broken" in told
    assert " 0 undecided" in told
    assert (folder / "verified.md").exists()
    # Nothing is computed again.
    before = (folder / f"{solver}-20s.json").read_text()
    again = main(config)
    np.testing.assert_array_equal(again.certified, found.certified)
    assert (folder / f"{solver}-20s.json").read_text() == before


def test_the_last_line_counts_what_was_settled() -> None:
    clean, attacked = np.array([1, 1, 1, 1, 0], bool), np.array([1, 1, 1, 0, 0], bool)
    found = Sandwich(clean, attacked, np.array([1, 0, 0, 0, 0], bool), "deterministic", {})
    for solver, name in SOLVERS.items():
        told = exact_line(found, Counter(certified=1, broken=1), solver)
        assert told == (
            f"{name}: 1 certified, 1 broken, 0 undecided; robust accuracy from 40.00 to 40.00 %"
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eps": "a"}, "eps must be a number"),
        ({"exact": -1.0}, "exact must be"),
        ({"exact": 1.0, "threat": "l2", "solver": "milp"}, "for linf and l1"),
        ({"attacks": ("fgms",)}, "did you mean 'fgsm'"),
        ({"subject": Subject()}, "give the model as one of --checkpoint RUN"),
    ],
)
def test_mistakes_name_the_value(
    run: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        main(dataclasses.replace(config_of(run, tmp_path / "out"), **changes))
    assert not (tmp_path / "out").exists()


def test_folders_tell_what_was_verified_apart(run: Path) -> None:
    digits = data.load("digits", limit=1)
    config = config_of(run, Path("out"))
    changes = ({}, {"eps": "0.1"}, {"threat": "l1"})
    folders = {default_folder(dataclasses.replace(config, **c), digits) for c in changes}
    assert len(folders) == 3
