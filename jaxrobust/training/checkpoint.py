"""Checkpoints of a training run: Orbax, written atomically, the last epoch and the best."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxrobust.training.seal import broken, seal
from jaxrobust.training.state import TrainState
from jaxrobust.types import PyTree

LAST = "last"
"""Folder of the checkpoint after the last epoch, in that of the run."""
BEST = "best"
"""Folder of the checkpoint of the best epoch."""
HALF_WRITTEN = ".orbax-checkpoint-tmp"
"""In the name of a folder that Orbax has not finished."""


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be read, or that belongs to another run."""


class Checkpoint(NamedTuple):
    """A restored checkpoint."""

    state: TrainState
    history: list[dict[str, Any]]
    """One row of metrics per finished epoch."""


def _alone() -> ocp.options.MultiprocessingOptions:
    """Each process reads for itself and only the first writes: no barrier between processes."""
    me = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"p{me}"
    )


def _manager(run: Path, kind: str) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(
        max_to_keep=1,
        create=False,
        enable_async_checkpointing=False,
        multiprocessing_options=_alone(),
    )
    return ocp.CheckpointManager((run / kind).absolute(), options=options)


def _plain(state: TrainState) -> PyTree:
    """The state as host arrays, its key as raw numbers."""
    state = state._replace(key=jax.random.key_data(state.key))
    return jax.tree.map(np.asarray, state)


def save(run: Path, kind: str, state: TrainState, history: list[dict[str, Any]]) -> None:
    """Writes the state and the history under `run / kind`, then drops the one before it.

    A kill at any moment leaves the one before or the new one, never half of one.

    Raises:
      OSError: the folder cannot be written (the message names it).
    """
    try:
        (run / kind).mkdir(parents=True, exist_ok=True)
        with _manager(run, kind) as manager:
            # Numbered by saves, not epochs: Orbax refuses a number twice, and an epoch that is
            # repeated after a kill is saved twice.
            latest = manager.latest_step()
            plain = _plain(state)
            rows = {"rows": history, "seal": seal(plain, history)}
            manager.save(
                0 if latest is None else latest + 1,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(plain), history=ocp.args.JsonSave(rows)
                ),
                force=True,
            )
    # TensorStore reports a full disk as a ValueError.
    except (OSError, ValueError) as error:
        raise OSError(
            getattr(error, "errno", None) or errno.EIO,
            f"cannot write a checkpoint under {run / kind} "
            f"({getattr(error, 'strerror', None) or _first_line(error)}); "
            "free some space or choose a writable run folder",
        ) from error


def sweep(run: Path, kind: str) -> None:
    """Removes what a killed process left half written under `run / kind`; no other may write."""
    for left in (run / kind).glob(f"*{HALF_WRITTEN}*"):
        shutil.rmtree(left, ignore_errors=True)


def restore(run: str | Path, kind: str, like: TrainState) -> Checkpoint | None:
    """Reads the checkpoint under `run / kind`.

    Args:
      run: the folder of the run.
      kind: "last" or "best".
      like: a state of the expected structure, shapes and types.

    Returns:
      A `Checkpoint`: the `state`, of the structure, shapes and types of `like`, and the `history`,
      one row of metrics per finished epoch. None where there is no checkpoint yet.

    Raises:
      CheckpointError: broken files, any byte of the state or the history that is not what was
        saved, or a checkpoint of another model, optimizer or method.
    """
    template = _plain(like)
    found = _read(Path(run) / kind, template, "belongs to another model, optimizer or method")
    if found is None:
        return None
    state, history, where = found
    for (path, ours), theirs in zip(
        jax.tree_util.tree_leaves_with_path(template), jax.tree.leaves(state), strict=True
    ):
        if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
            name = jax.tree_util.keystr(path)
            raise CheckpointError(
                f"{where} belongs to another run: {name} is {theirs.dtype}{list(theirs.shape)} "
                f"there and {ours.dtype}{list(ours.shape)} here; choose another run folder"
            )
    told = history[-1].get("step") if history else 0
    if told != int(state.step):
        raise CheckpointError(
            f"{where} holds a state after {int(state.step)} steps, but its history ends after "
            f"{told}; delete the run folder or choose another"
        )
    impl = jax.random.key_impl(like.key)
    return Checkpoint(state._replace(key=jax.random.wrap_key_data(state.key, impl=impl)), history)


def saved_variables(run: str | Path, kind: str) -> Mapping[str, Any]:
    """Parameters and statistics under `run / kind`, without the optimizer that they came with.

    Args:
      run: the folder of the run.
      kind: "last" or "best".

    Returns:
      The fields of the model's `Variables` by name, `params` and `stats`, as saved: trees of dicts
      and lists of arrays.

    Raises:
      FileNotFoundError: no such checkpoint.
      CheckpointError: broken files.
    """
    found = _read(Path(run) / kind, None, "was made by another version")
    if found is None:
        raise FileNotFoundError(f"the run {run} holds no {kind!r} checkpoint yet")
    return found[0]["variables"]


def _read(
    folder: Path, template: PyTree | None, guess: str
) -> tuple[PyTree, list[dict[str, Any]], Path] | None:
    """State, history and place of the checkpoint in `folder`, both as they were sealed.

    Args:
      template: of the state; None reads it as dicts and lists.
      guess: what else may be wrong.
    """
    if not folder.is_dir():
        return None
    with _manager(folder.parent, folder.name) as manager:
        number = manager.latest_step()
        if number is None:
            return None
        where = folder / str(number)
        try:
            found = manager.restore(
                number,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(template), history=ocp.args.JsonRestore()
                ),
            )
            state, history = found.state, list(found.history["rows"])
            part = broken(found.history["seal"], state, history)
        except Exception as error:
            raise CheckpointError(
                f"{where} is broken or {guess} ({type(error).__name__}: {_first_line(error)}); "
                "delete the run folder or choose another"
            ) from error
    if part is not None:
        raise CheckpointError(
            f"{where} is broken: its {part} is not what was saved; "
            "delete the run folder or choose another"
        )
    return state, history, where


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200]
