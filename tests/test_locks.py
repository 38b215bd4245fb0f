"""Folders that one process has for itself, and signals that end its work between two calls."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxrobust.files import sweep, write_text_atomic
from jaxrobust.locks import LOCK, claimed
from jaxrobust.signals import stoppable

ROOT = Path(__file__).resolve().parent.parent
HOLDER = """
import sys, time
from jaxrobust.locks import claimed
with claimed(sys.argv[1]):
    print("held", flush=True)
    time.sleep(100)
"""
STEPS = """
import sys, time
from jaxrobust.signals import stoppable
done = []
with stoppable(lambda: f"{len(done)} steps are safe") as check:
    print("begun", flush=True)
    for step in range(200):
        time.sleep(0.1)
        done.append(step)
        check()
print("not stopped")
"""


def program(text: str, *arguments: str) -> subprocess.Popen[str]:
    started = subprocess.Popen(
        [sys.executable, "-c", text, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert started.stdout.readline().strip() in ("held", "begun")
    return started


def test_a_second_process_is_told_who_holds_the_folder_and_a_dead_one_holds_nothing(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "run"
    holder = program(HOLDER, str(folder))
    try:
        told = rf"run is in use by process {holder.pid} on \S+ since \d{{4}}-.*choose another"
        with pytest.raises(BlockingIOError, match=told), claimed(folder):
            pass
    finally:
        holder.kill()
        holder.communicate()
    assert json.loads((folder / LOCK).read_text())["pid"] == holder.pid
    with claimed(folder):
        assert json.loads((folder / LOCK).read_text())["pid"] == os.getpid()
        with pytest.raises(BlockingIOError, match=f"process {os.getpid()}"), claimed(folder):
            pass
    assert (folder / LOCK).read_text() == ""


def test_the_lock_ends_with_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError), claimed(tmp_path):
        raise KeyError
    with claimed(tmp_path):
        pass


def test_storage_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with pytest.warns(UserWarning, match="without file locks"), claimed(tmp_path):
        pass


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_after_the_current_step_with_one_line(number: int, status: int) -> None:
    worker = program(STEPS)
    time.sleep(0.3)
    worker.send_signal(number)
    out, err = worker.communicate(timeout=60)
    assert worker.returncode == status
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith(f"stopped by {signal.Signals(number).name}: ")
    assert line.endswith(" steps are safe")


def test_blocks_within_blocks_and_programs_with_handlers(
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def work() -> None:
        with stoppable(lambda: "outer"), stoppable(lambda: "inner") as inner:
            os.kill(os.getpid(), signal.SIGTERM)
            inner()
            raise AssertionError("the check did not end the block")

    with pytest.raises(SystemExit) as caught:
        work()
    assert caught.value.code == 143
    assert capsys.readouterr().err == "stopped by SIGTERM: outer\n"
    assert signal.getsignal(signal.SIGTERM) == before

    # A signal after the last check ends the block all the same.
    with pytest.raises(SystemExit), stoppable(lambda: "all"):
        os.kill(os.getpid(), signal.SIGINT)

    seen: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    try:
        with stoppable(lambda: "nothing") as check:
            os.kill(os.getpid(), signal.SIGTERM)
            check()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [signal.SIGTERM]


def test_what_killed_writers_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    write_text_atomic(tmp_path / "kept.json", "{}")
    kept = {"kept.json", ".hidden.tmp", "notes.tmp"}
    for name in (*kept, ".kept.json.0123456789ab.tmp"):
        (tmp_path / name).write_text("")
    sweep(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == kept
