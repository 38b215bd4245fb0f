"""Run folders that something damages: each must end in an error or in the very result.

    python -m tests.fuzz.run_folders --folders 200 --seed 0

A small run is trained, copied, and damaged in one of many ways; then it is asked for again, once
finished and once with an epoch to go. Training on from what is not what was saved is a fault.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrobust import defenses
from jaxrobust.data import Dataset, assemble
from jaxrobust.data.synthetic import synthetic
from jaxrobust.fingerprint import fingerprint
from jaxrobust.models import build, from_linen
from jaxrobust.training import CheckpointError, Run, fit
from jaxrobust.types import Variables

EPOCHS = 4
ERRORS = (CheckpointError, ValueError, OSError)
"""What the command line shows as one line; anything else is a fault."""

Damage = Callable[[Path, np.random.Generator], None]


def flip_bit(folder: Path, rng: np.random.Generator) -> None:
    file = _any(folder, rng, lambda path: path.is_file() and path.stat().st_size > 0)
    data = bytearray(file.read_bytes())
    data[rng.integers(len(data))] ^= 1 << rng.integers(8)
    file.write_bytes(data)


def flip_state(folder: Path, rng: np.random.Generator) -> None:
    """A bit of what holds arrays."""
    file = _any(folder, rng, lambda path: path.is_file() and "/d/" in path.as_posix())
    data = bytearray(file.read_bytes())
    data[rng.integers(len(data))] ^= 1 << rng.integers(8)
    file.write_bytes(data)


def truncate(folder: Path, rng: np.random.Generator) -> None:
    file = _any(folder, rng, lambda path: path.is_file() and path.stat().st_size > 0)
    file.write_bytes(file.read_bytes()[: rng.integers(file.stat().st_size)])


def delete_file(folder: Path, rng: np.random.Generator) -> None:
    _any(folder, rng, Path.is_file).unlink()


def delete_folder(folder: Path, rng: np.random.Generator) -> None:
    shutil.rmtree(_any(folder, rng, Path.is_dir))


def swap(folder: Path, rng: np.random.Generator) -> None:
    """The last and the best checkpoint."""
    (folder / "last").rename(folder / "between")
    (folder / "best").rename(folder / "last")
    (folder / "between").rename(folder / "best")


def copy_over(folder: Path, rng: np.random.Generator) -> None:
    """One checkpoint in place of the other, or a part of one."""
    one, other = rng.permutation(["last", "best"])
    part = rng.choice(["", "state", "history"])
    source, target = (next((folder / kind).iterdir()) / part for kind in (one, other))
    shutil.rmtree(target)
    shutil.copytree(source, target)


def empty_history(folder: Path, rng: np.random.Generator) -> None:
    for file in folder.glob(f"{rng.choice(['last', 'best'])}/*/history/metadata"):
        file.write_text("[]" if rng.random() < 0.5 else '{"rows": [], "seal": {}}')


def shorten_history(folder: Path, rng: np.random.Generator) -> None:
    for file in folder.glob("last/*/history/metadata"):
        text = file.read_text()
        start = text.index('{"epoch": 1,')
        file.write_text(text[:start] + text[text.index('{"epoch": 2,') :])


def spoil_metrics(folder: Path, rng: np.random.Generator) -> None:
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[: rng.integers(len(lines))]))


def other_numbers(folder: Path, rng: np.random.Generator) -> None:
    """A digit of the settings or of a history."""
    names = ("config.json", "identity.json", "last/*/history/metadata")
    file = rng.choice([file for name in names for file in folder.glob(name)])
    text = file.read_text()
    place = rng.choice([i for i, c in enumerate(text) if c.isdigit()])
    file.write_text(f"{text[:place]}{(int(text[place]) + 1) % 10}{text[place + 1 :]}")


DAMAGES: Mapping[str, Damage] = {
    damage.__name__: damage
    for damage in (
        flip_bit,
        flip_state,
        truncate,
        delete_file,
        delete_folder,
        swap,
        copy_over,
        empty_history,
        shorten_history,
        spoil_metrics,
        other_numbers,
    )
}


def _any(folder: Path, rng: np.random.Generator, suits: Callable[[Path], bool]) -> Path:
    found = sorted(path for path in folder.rglob("*") if suits(path))
    return found[rng.integers(len(found))]


class Subject(NamedTuple):
    """A run to damage: finished, and stopped before its last epoch."""

    finished: Path
    stopped: Path
    expected: str
    """Fingerprint of the finished run's state and best state."""


MODEL = from_linen(build("mlp", 4))
DATA: Dataset = assemble(
    "synthetic", synthetic(train_size=64, test_size=16, classes=4, shape=(4, 4, 1))
)
UNTIL: list[int] = []
"""Validations until the run is stopped; empty: it is not."""


class Stopped(BaseException):
    """Ends a run as a kill does."""


def score(variables: Variables) -> dict[str, float]:
    """Falls from the second epoch on, so that best and last differ."""
    if UNTIL:
        UNTIL[0] -= 1
        if UNTIL[0] < 0:
            raise Stopped
    size = float(sum(jnp.abs(leaf).sum() for leaf in jax.tree.leaves(variables.params)))
    return {"score": -abs(size - TARGET[0]) if TARGET else size}


TARGET: list[float] = []
"""The size at the second epoch, found by a run that is not judged."""


def train(folder: Path, epochs: int = EPOCHS) -> Run:
    """The run under test."""
    return fit(
        0, MODEL, defenses.erm(), DATA, optax.sgd(0.05, momentum=0.9),
        epochs=epochs, batch_size=16, run=folder, config={"rate": 0.05}, validate=score,
        best_by="score", progress=False,
    )  # fmt: skip


def result(run: Run) -> str:
    """Fingerprint of what a run gives."""
    rows = [[row[name] for name in ("epoch", "step", "train_loss", "score")] for row in run.history]
    return fingerprint((run.state, run.best, np.asarray(rows)))


def subject(folder: Path) -> Subject:
    """Trains the runs to damage."""
    UNTIL.clear()
    TARGET.clear()
    TARGET.append(train(folder / "scout", epochs=2).history[1]["score"])
    expected = result(train(folder / "finished"))
    UNTIL.append(EPOCHS)
    try:
        train(folder / "stopped")
    except Stopped:
        UNTIL.clear()
    return Subject(folder / "finished", folder / "stopped", expected)


def outcome(subject: Subject, folder: Path, name: str, seed: int) -> str:
    """Damages a copy under `folder`: "error", "same", or what went wrong."""
    rng = np.random.default_rng(seed)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(subject.finished if rng.random() < 0.5 else subject.stopped, folder)
    DAMAGES[name](folder, rng)
    try:
        found = train(folder)
    except ERRORS:
        return "error"
    except Exception as error:
        return f"{name}, seed {seed}: {type(error).__name__}: {error}"
    return "same" if result(found) == subject.expected else f"{name}, seed {seed}: another result"


def outcomes(folders: int, *, seed: int = 0) -> Counter[str]:
    """What came of so many damaged folders, each kind of damage in turn."""
    names = list(DAMAGES)
    with tempfile.TemporaryDirectory() as place:
        made = subject(Path(place))
        return Counter(
            outcome(made, Path(place) / "run", names[i % len(names)], seed + i)
            for i in range(folders)
        )


def main() -> None:
    """Damages as many folders as asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folders", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    found = outcomes(options.folders, seed=options.seed)
    for line, count in found.most_common():
        print(f"{count} {line}")
    raise SystemExit(bool(found.keys() - {"error", "same"}))


if __name__ == "__main__":
    main()
