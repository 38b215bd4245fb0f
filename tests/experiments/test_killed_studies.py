"""Studies that are killed and run again end like ones left alone, bit for bit."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

TESTS = Path(__file__).resolve().parent.parent
WORKER = Path(__file__).resolve().with_name("study_worker.py")
pytestmark = pytest.mark.slow


def start(name: str, out: Path) -> subprocess.Popen[str]:
    """The study on one device, under JAX's defaults."""
    environment = {
        "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)]),
        "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
        "JAX_PLATFORMS": "cpu",
    }
    return subprocess.Popen(
        [sys.executable, str(WORKER), name, str(out)],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(worker: subprocess.Popen[str]) -> None:
    output, _ = worker.communicate(timeout=400)
    assert worker.returncode == 0, output[-4000:]


def untimed(value: Any) -> Any:
    """A JSON value without what a clock says."""
    if isinstance(value, dict):
        clocks = ("second", "time", "images_per_second", "minutes")
        return {k: untimed(v) for k, v in value.items() if not any(c in k for c in clocks)}
    return [untimed(part) for part in value] if isinstance(value, list) else value


def results(out: Path) -> dict[str, Any]:
    """Every history, table and batch under `out`, by name."""
    found: dict[str, Any] = {}
    for file in sorted(out.rglob("*")):
        name = str(file.relative_to(out))
        if file.name == "metrics.jsonl":
            found[name] = [untimed(json.loads(row)) for row in file.read_text().splitlines()]
        elif file.suffix == ".json" and "last" not in name.split("/"):
            found[name] = untimed(json.loads(file.read_text()))
        elif file.suffix == ".npz":
            with np.load(file) as held:
                found[name] = {n: held[n].tobytes() for n in held.files if n != "seconds"}
    return found


def holds_something(out: Path, ending: str) -> bool:
    """Whether a file of that ending has content; what the worker renames meanwhile does not."""
    for folder, _, names in os.walk(out):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                if name.endswith(ending) and Path(folder, name).stat().st_size:
                    return True
    return False


@pytest.mark.parametrize("name", ["wasserstein", "provable"])
@pytest.mark.parametrize("moment", ["training", "evaluating"])
def test_a_killed_study_ends_like_one_left_alone(
    tmp_path: Path, alone: dict[str, dict[str, Any]], name: str, moment: str
) -> None:
    out = tmp_path / "killed"
    worker = start(name, out)
    wanted = "metrics.jsonl" if moment == "training" else ".npz"
    deadline = time.monotonic() + 200
    while not holds_something(out, wanted):
        assert worker.poll() is None, worker.communicate()[0][-4000:]
        assert time.monotonic() < deadline, "nothing happened in time"
        time.sleep(0.005)
    worker.kill()
    worker.communicate()
    before = results(out)
    finish(start(name, out))
    found = results(out)
    assert found == alone[name]
    assert before != found


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("alone")
    for name in ("wasserstein", "provable"):
        finish(start(name, folder / name))
    return {name: results(folder / name) for name in ("wasserstein", "provable")}
