"""Runs that are killed again and again end like one left alone, bit for bit.

    PYTHONPATH=.:tests python -m tests.fuzz.kills --kills 40 --seed 0

Every run is killed several times, each at a moment drawn at random once it has its folder, and then
finished.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from distributed.processes import finish, result, start
from training.training_cases import untimed

from jaxrobust.locks import LOCK

WORKS = ("fit", "stream", "evaluate")
EACH = 5
"""Kills of one run."""


def kill(folder: Path, work: str, after: float, **settings: object) -> str:
    """Starts the work and kills it so many seconds after it has claimed its folder."""
    worker = start(folder, "killed", work=work, **settings)
    lock = folder / "run" / LOCK
    before = lock.read_text() if lock.exists() else ""
    while worker.poll() is None and (not lock.exists() or lock.read_text() in ("", before)):
        time.sleep(0.01)
    try:
        worker.wait(timeout=after)
    except subprocess.TimeoutExpired:
        worker.kill()
    output, _ = worker.communicate()
    return "killed" if worker.returncode == -9 else f"ended with {worker.returncode}: {output}"


def same(one: tuple, other: tuple) -> bool:
    """Whether two results are equal bit for bit, timings aside."""
    arrays = all(
        np.array_equal(a, b, equal_nan=True) for a, b in zip(one[0], other[0], strict=True)
    )
    return arrays and repr(untimed(one[1])) == repr(untimed(other[1]))


def outcomes(kills: int, *, seed: int = 0, longest: float = 3.0) -> Counter[str]:
    """What came of so many kills, and of the runs that suffered them."""
    rng, found = np.random.default_rng(seed), Counter[str]()
    settings = {"epochs": 12, "pause": 0.15}
    with tempfile.TemporaryDirectory() as place:
        for work in WORKS:
            finish(start(Path(place) / work, "alone", work=work, **settings))
        for number in range(-(-kills // EACH)):
            work = WORKS[number % len(WORKS)]
            folder = Path(place) / f"run{number}"
            for _ in range(min(EACH, kills - number * EACH)):
                found[kill(folder, work, rng.uniform(0, longest), **settings)] += 1
            finish(start(folder, "finished", work=work, **settings))
            alone, again = result(Path(place) / work, "alone"), result(folder, "finished")
            found["same result" if same(alone, again) else f"{work}: another result"] += 1
            if list(folder.glob("run/**/.*.tmp")) + list(folder.glob("run/**/*orbax*tmp*")):
                found["temporary files left"] += 1
    return found


def main() -> None:
    """Kills as often as asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    found = outcomes(options.kills, seed=options.seed)
    for line, count in found.most_common():
        print(f"{count} {line}")
    wrong = [line for line in found if line not in ("killed", "ended with 0: ", "same result")]
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
