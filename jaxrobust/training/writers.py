"""Callbacks that show a run's metrics elsewhere, by packages that are installed for it alone."""

from __future__ import annotations

import functools
import importlib
import os
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any

from jaxrobust.training.reporting import Callback
from jaxrobust.training.state import TrainState


def tensorboard(folder: str | os.PathLike[str]) -> Callback:
    """Writes every metric of an epoch's row for TensorBoard, over the steps of training.

    Read them with `tensorboard --logdir FOLDER`. The files are written by tensorboardX or, without
    it, by PyTorch; TensorFlow is not imported.

    Args:
      folder: where the event files go, for example the run's own folder.

    Returns:
      A callback for `training.fit`.

    Raises:
      ValueError: neither package is installed.
    """
    kind = _summary_writer()
    # Opened by the process that writes, when it does. A thread of its own writes, every second.
    opened = functools.cache(lambda: kind(os.fspath(folder), flush_secs=1))

    def write(state: TrainState, row: Mapping[str, Any]) -> None:
        del state
        for name, value in _numbers(row):
            opened().add_scalar(name, value, row["step"])
        opened().flush()

    return write


def wandb(
    *,
    project: str,
    name: str | None = None,
    entity: str | None = None,
    config: Mapping[str, Any] | None = None,
    id: str | None = None,
    mode: str | None = None,
) -> Callback:
    """Logs every metric of an epoch's row with Weights & Biases, over the steps of training.

    Args:
      project: the project that the run belongs to.
      name: what the run is called there.
      entity: the account or team.
      config: settings to show beside the run.
      id: names the run, so that it goes on when training resumes.
      mode: "online", "offline" or "disabled" (default: W&B's own choice).

    Returns:
      A callback for `training.fit`.

    Raises:
      ValueError: the package wandb is not installed.
    """
    package = _package("wandb")
    if package is None:
        raise ValueError("writers.wandb needs W&B; install it with: pip install wandb")

    @functools.cache
    def opened() -> Any:
        return package.init(
            project=project,
            name=name,
            entity=entity,
            config=dict(config or {}),
            id=id,
            resume="allow",
            mode=mode,
        )

    def write(state: TrainState, row: Mapping[str, Any]) -> None:
        del state
        opened().log(dict(_numbers(row)), step=row["step"])

    return write


def _numbers(row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in row.items():
        if name != "step" and isinstance(value, int | float):
            yield name, float(value)


def _summary_writer() -> Any:
    if found := _package("tensorboardX"):
        return found.SummaryWriter
    # TensorBoard asks TensorFlow for its file system, unless this module is there.
    sys.modules.setdefault("tensorboard.compat.notf", types.ModuleType("notf"))
    if found := _package("torch.utils.tensorboard"):
        return found.SummaryWriter
    raise ValueError(
        "writers.tensorboard needs a package that writes its files; install one with: "
        "pip install tensorboardX"
    )


def _package(name: str) -> types.ModuleType | None:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
