"""Training over processes, and training that is killed, against training left alone."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from distributed.processes import finish, free_address, result, start
from training.training_cases import untimed

pytestmark = pytest.mark.slow


def assert_same_run(a: tuple, b: tuple, *, rtol: float, atol: float) -> None:
    for left, right in zip(a[0], b[0], strict=True):
        np.testing.assert_allclose(left, right, rtol=rtol, atol=atol)
    for left, right in zip(untimed(a[1]), untimed(b[1]), strict=True):
        assert left.keys() == right.keys()
        np.testing.assert_allclose(list(left.values()), list(right.values()), rtol=rtol, atol=atol)


def test_two_processes_train_as_one_and_resume(tmp_path: Path) -> None:
    alone = start(tmp_path / "one", "all", devices=4, epochs=3)

    def pair(name: str, **more: int) -> list:
        address = free_address()
        return [
            start(
                tmp_path / "two",
                f"{name}{i}",
                devices=2,
                epochs=3,
                process=i,
                processes=2,
                address=address,
                writes=str(tmp_path / "two" / f"{name}{i}.writes"),
                **more,
            )
            for i in (0, 1)
        ]

    # Validation runs once before the first epoch: this stops in the validation of the third.
    finish(*pair("stopped", stop=3), code=7)
    rows = (tmp_path / "two" / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["epoch"] for row in rows] == [1, 2]
    finish(*pair("resumed"))
    finish(alone)

    first, second = (result(tmp_path / "two", f"resumed{i}") for i in (0, 1))
    assert_same_run(first, second, rtol=0, atol=0)
    assert_same_run(first, result(tmp_path / "one", "all"), rtol=2e-4, atol=2e-5)
    assert (tmp_path / "two" / "resumed0.writes").read_text()
    assert (tmp_path / "two" / "resumed1.writes").read_text() == ""


def test_a_killed_run_ends_like_one_left_alone(tmp_path: Path) -> None:
    epochs = 8
    alone = start(tmp_path / "alone", "all", epochs=epochs)
    killed = start(tmp_path / "killed", "first", epochs=epochs, pause=0.5)
    metrics = tmp_path / "killed" / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.read_text().strip()):
        assert killed.poll() is None, killed.stdout.read()[-4000:]
        assert time.monotonic() < deadline, "no epoch ended in time"
        time.sleep(0.02)
    killed.kill()
    killed.communicate()
    done = len(metrics.read_text().splitlines())
    assert 1 <= done < epochs

    finish(start(tmp_path / "killed", "second", epochs=epochs))
    finish(alone)
    found = result(tmp_path / "killed", "second")
    assert len(found[1]) == epochs
    assert_same_run(found, result(tmp_path / "alone", "all"), rtol=0, atol=0)
    on_disk = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert untimed(on_disk) == untimed(found[1])
