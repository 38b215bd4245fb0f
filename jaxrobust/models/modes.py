"""How a network is told whether it trains: the keyword of its call, found or given by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

IN_TRAINING = {
    "train": True,
    "training": True,
    "is_training": True,
    "deterministic": False,
    "use_running_average": False,
    "inference": False,
}
"""The usual names, and what each is while training."""

Modes = tuple[tuple[str, bool], ...]
"""Keywords, each with its value while training."""


def in_training(name: str) -> bool:
    """The value of the keyword `name` while training; True for names that are not the usual."""
    return IN_TRAINING.get(name, True)


def find_modes(call: Callable[..., Any], mode: str | None, *, owner: str) -> Modes:
    """The keywords of `call` that tell a network whether it trains.

    Args:
      call: the network's forward pass.
      mode: the keyword; None looks for the usual ones.
      owner: what an error calls the network.

    Raises:
      ValueError: `call` has no keyword `mode`.
    """
    parameters = inspect.signature(call).parameters
    if mode is None:
        return tuple(item for item in IN_TRAINING.items() if item[0] in parameters)
    if mode not in parameters and all(p.kind is not p.VAR_KEYWORD for p in parameters.values()):
        known = ", ".join(name for name in parameters if name != "self")
        raise ValueError(f"{owner} takes no keyword mode={mode!r}; it takes: {known}")
    return ((mode, in_training(mode)),)


def keywords(modes: Modes, train: bool) -> dict[str, Any]:
    """The keywords that set a network to training or to evaluation."""
    return {name: value == train for name, value in modes}
