"""Finished batches on disk, so that an evaluation that was killed goes on where it stopped.

A journal is a folder: `identity.json` says what is evaluated, and every attack has a folder of its
own with a file per batch. A batch is read back only for the very examples it was computed on;
which those are may change with the attacks before it, and then it is attacked again.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import re
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxrobust.archive import declared, read
from jaxrobust.evaluation.batched_pass import (
    AttackLike,
    HostResult,
    Job,
    Tick,
    as_attack,
    attack_pass,
    in_turn,
)
from jaxrobust.evaluation.report import Metadata, Timing
from jaxrobust.files import PathLike, sweep, write_bytes_atomic, write_text_atomic
from jaxrobust.fingerprint import describe, differences, fingerprint
from jaxrobust.locks import claimed
from jaxrobust.signals import Check, stoppable
from jaxrobust.types import Key

IDENTITY = "identity.json"


@contextlib.contextmanager
def guarded(folder: PathLike | None, job: Job) -> Iterator[Check]:
    """An evaluation has `folder` for itself, and ends at the first `check()` after a signal.

    Raises:
      BlockingIOError: another process evaluates in the folder. SystemExit: see `stoppable`.
    """
    # On devices of its own, each process evaluates by itself.
    hosts = {device.process_index for device in job.mesh.devices.flat}
    together = len(hosts) == jax.process_count()
    lock = contextlib.nullcontext() if folder is None else claimed(folder, together=together)

    def safe() -> str:
        if folder is None:
            return "nothing is saved, as the evaluation was given no folder"
        return f"the batches that ended are safe in {folder}, and the same call goes on from there"

    with lock, stoppable(safe, together=together) as check:
        yield check


def open_journal(
    folder: PathLike,
    job: Job,
    attacks: Mapping[str, tuple[Key, AttackLike]],
    metadata: Metadata | None,
) -> Path:
    """Makes `folder` the journal of these attacks, or goes on with the one it holds.

    The identity is that of weights, data, batch size, `metadata`, and each attack's settings and
    key. Attacks that the folder does not know yet join it.

    Raises:
      ValueError: the folder holds batches of another evaluation (the message names the
        differences) or of an unknown one, or an attack's settings cannot be written down.
      OSError: the folder cannot be written.
    """
    folder = Path(folder)
    identity = {
        "weights": fingerprint(job.variables),
        "data": {"examples": len(job.x), "fingerprint": fingerprint((job.x, job.y))},
        "batch_size": job.rows.shape[1],
        "metadata": json.loads(json.dumps(dict(metadata or {}), default=str)),
        "attacks": {
            name: {"key": fingerprint(key), **_settings(name, attack)}
            for name, (key, attack) in attacks.items()
        },
    }
    held = _held(folder)
    if held is not None:
        ours = identity["attacks"]
        common = {name: told for name, told in held["attacks"].items() if name in ours}
        new = {name: told for name, told in ours.items() if name not in common}
        changed = differences({**held, "attacks": {**common, **new}}, identity)
        if changed:
            raise ValueError(
                f"{folder} holds another evaluation ({changed}); "
                "choose another folder or delete that one"
            )
        identity["attacks"] = held["attacks"] | new
    if jax.process_index() == 0:
        for place in (folder, *(part for part in folder.glob("*") if part.is_dir())):
            sweep(place)
        write_text_atomic(folder / IDENTITY, json.dumps(identity, indent=2) + "\n")
    return folder


def journaled_pass(
    journal: Path | None,
    name: str,
    job: Job,
    key: Key,
    attack: AttackLike,
    *,
    keep_examples: bool,
    tick: Tick,
    check: Check,
) -> tuple[HostResult, Timing]:
    """`attack_pass`, batch by batch: reads those that `journal` holds and adds the others.

    Without a journal it is `attack_pass`. The seconds of a batch are those it took when computed.

    Args:
      check: called after every batch, when it is saved.
    """
    run = functools.partial(attack_pass, key=key, attack=attack, keep_examples=keep_examples)
    if journal is None:
        return run(job, tick=in_turn(tick, check))
    # Names may hold characters that files may not, and differ in their case alone.
    slug = re.sub(r"[^\w.-]+", "-", name)
    folder = journal / f"{slug}-{zlib.crc32(name.encode()):08x}"
    parts, seconds = [], []
    for index, mask in zip(job.rows, job.mask, strict=True):
        rows = index[mask]
        file = folder / f"{rows[0]:08d}.npz"
        found = _read(file, rows, keep_examples)
        if found is None:
            began = time.perf_counter()
            result, _ = run(job._replace(rows=index[None], mask=mask[None]), tick=tick)
            found = result, time.perf_counter() - began
            if jax.process_index() == 0:
                _write(file, rows, *found)
        else:
            tick()
        check()
        parts.append(found[0])
        seconds.append(found[1])
    timing = Timing(first=seconds[0], rest=sum(seconds[1:]), batches=len(seconds))
    return jax.tree.map(lambda *a: np.concatenate(a), *parts), timing


def _settings(name: str, attack: AttackLike) -> dict[str, Any]:
    try:
        return describe(as_attack(attack))
    except ValueError as error:
        raise ValueError(f"attack {name!r} cannot be resumed: {error}") from error


def _held(folder: Path) -> dict[str, Any] | None:
    """The identity of the journal in `folder`; None where there is none yet."""
    file = folder / IDENTITY
    if not file.exists():
        if any(folder.glob("*/*.npz")):
            raise ValueError(
                f"{folder} holds results but no {IDENTITY}, so nothing tells whose they are; "
                "choose another folder or delete that one"
            )
        return None
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
        held["attacks"].items()
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{file} is not the identity of an evaluation; delete the folder or choose another"
        ) from error
    return held


def _write(file: Path, rows: np.ndarray, result: HostResult, seconds: float) -> None:
    fields = {name: value for name, value in result._asdict().items() if value is not None}
    data = io.BytesIO()
    np.savez(data, index=rows, seconds=seconds, **fields)
    write_bytes_atomic(file, data.getvalue())


def _read(file: Path, rows: np.ndarray, keep_examples: bool) -> tuple[HostResult, float] | None:
    """The saved results of exactly these examples; None where the file cannot give them."""
    if not file.exists():
        return None
    try:
        told = declared(file)
        if keep_examples and "x" not in told:
            return None
        wanted = {"index", "seconds", *HostResult._fields} - (set() if keep_examples else {"x"})
        missing = sorted(wanted - set(told))
        if missing:
            raise ValueError(f"{missing[0]!r} is missing")
        count = told["index"].shape
        for name in wanted:
            _check(name, told[name].shape, told[name].dtype, count)
        saved = read(file, {name: told[name] for name in wanted})
        if not np.array_equal(saved["index"], rows):
            return None
        seconds = float(saved.pop("seconds"))
        if not 0 <= seconds < np.inf:
            raise ValueError(f"'seconds' is {seconds}")
        del saved["index"]
        result = HostResult(**{"x": None, **saved})
        _check_numbers(result)
        return result, seconds
    except ValueError as error:
        raise ValueError(
            f"{file} is broken ({error}); delete it to attack its batch again"
        ) from error


_KINDS = {"index": "iu", "success": "b", "inside": "b", "forwards": "iuf", "backwards": "iuf"}
"""The kinds of NumPy types of what a batch holds; floats for the rest."""


def _check(name: str, shape: tuple[int, ...], dtype: np.dtype, count: tuple[int, ...]) -> None:
    """Raises ValueError unless the array called `name` is one of a batch of `count` examples."""
    rows = shape[:1] if name == "x" else shape
    if len(count) != 1 or rows != (() if name == "seconds" else count):
        raise ValueError(f"{name!r} has shape {shape} in a batch of shape {count}")
    if dtype.kind not in _KINDS.get(name, "f"):
        raise ValueError(f"{name!r} holds {dtype}")


def _check_numbers(result: HostResult) -> None:
    """Raises ValueError for numbers that no attack reports."""
    for name in ("forwards", "backwards"):
        if (getattr(result, name) < 0).any():
            raise ValueError(f"{name!r} holds negative counts")
    # Losses and margins of a broken model may well be NaN; distances of points inside are not.
    if np.isnan(result.norm[result.inside]).any():
        raise ValueError("'norm' is NaN for a point inside of the set")
