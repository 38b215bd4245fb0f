"""Training over processes, and training that is killed, against training left alone."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
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


def wait_for(done: Callable[[], bool], *workers: subprocess.Popen[str]) -> None:
    """Until something has happened while all workers run."""
    deadline = time.monotonic() + 200
    while not done():
        for worker in workers:
            assert worker.poll() is None, worker.communicate()[0][-4000:]
        assert time.monotonic() < deadline, "nothing happened in time"
        time.sleep(0.02)


def rows(folder: Path) -> int:
    """Epochs, or batches, that ended."""
    metrics = folder / "run" / "metrics.jsonl"
    batches = len(list((folder / "run").glob("*/*.npz")))
    return batches + (metrics.read_text().count("\n") if metrics.exists() else 0)


@pytest.mark.parametrize(("work", "whole"), [("stream", 6), ("evaluate", 16)])
def test_what_is_killed_ends_like_what_was_left_alone(
    tmp_path: Path, work: str, whole: int
) -> None:
    alone = start(tmp_path / "alone", "all", epochs=6, work=work, pause=0.0)
    killed = start(tmp_path / "killed", "first", epochs=6, work=work, pause=0.5)
    wait_for(lambda: rows(tmp_path / "killed") > 1, killed)
    killed.kill()
    killed.communicate()
    assert rows(tmp_path / "killed") < whole
    # What a writer, and Orbax, would leave half done.
    left = tmp_path / "killed" / "run" / ".metrics.csv.0123456789ab.tmp"
    left.write_text("half")
    finish(start(tmp_path / "killed", "second", epochs=6, work=work, pause=0.0))
    finish(alone)
    assert not left.exists()
    found = result(tmp_path / "killed", "second")
    assert_same_run(found, result(tmp_path / "alone", "all"), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("number", "status", "work"),
    [
        (signal.SIGTERM, 143, "fit"),
        (signal.SIGINT, 130, "stream"),
        (signal.SIGTERM, 143, "evaluate"),
    ],
)
def test_a_signal_ends_with_one_line_and_what_ended_is_safe(
    tmp_path: Path, number: int, status: int, work: str
) -> None:
    # epochs enough that a busy machine does not end them before the signal comes
    worker = start(tmp_path, "first", epochs=24, work=work, pause=0.5)
    wait_for(lambda: rows(tmp_path) > 1, worker)
    worker.send_signal(number)
    output, _ = worker.communicate(timeout=60)
    assert worker.returncode == status, output
    assert output.startswith(f"stopped by {signal.Signals(number).name}: ")
    assert output.count("\n") == 1
    assert "the same call goes on" in output
    assert rows(tmp_path) > 1


def pair(folder: Path, name: str, **more: object) -> list[subprocess.Popen[str]]:
    """Two processes that train together."""
    address = free_address()
    return [
        start(folder, f"{name}{i}", process=i, processes=2, address=address, **more) for i in (0, 1)
    ]


@pytest.mark.parametrize("victim", [0, 1])
def test_when_one_of_several_dies_the_others_end_and_say_so(tmp_path: Path, victim: int) -> None:
    workers = pair(tmp_path, "w", epochs=1000, pause=0.2)
    try:
        wait_for(lambda: rows(tmp_path) > 0, *workers)
        workers[victim].kill()
        output, _ = workers[1 - victim].communicate(timeout=60)
        assert workers[1 - victim].returncode != 0
        assert "another task died" in output or "leader" in output, output[-3000:]
    finally:
        for worker in workers:
            worker.kill()


def test_several_stop_together_and_a_second_pair_is_refused(tmp_path: Path) -> None:
    workers = pair(tmp_path, "first", epochs=1000, pause=0.3)
    try:
        wait_for(lambda: rows(tmp_path) > 0, *workers)
        for refused in pair(tmp_path, "second", epochs=1000):
            output, _ = refused.communicate(timeout=200)
            assert refused.returncode == 1
            assert f"run is in use by process {workers[0].pid} on " in output
        workers[1].send_signal(signal.SIGTERM)
        ends = [worker.communicate(timeout=60)[0] for worker in workers]
        assert [worker.returncode for worker in workers] == [143, 143], ends
        assert "stopped by SIGTERM: " in ends[0]
    finally:
        for worker in workers:
            worker.kill()
