"""What linen's layers do in a training pass: whom they average with, and whether they train."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import flax.linen as nn


class Seen(NamedTuple):
    """What a pass went through."""

    averaged: list[tuple[str, ...]]
    """Places of the layers whose statistics are means over the mapped axes."""
    training: list[bool]
    """Of every layer that has two modes, whether it trained."""


@contextlib.contextmanager
def training_pass(axes: tuple[str, ...] | None) -> Iterator[Seen]:
    """In its context every `nn.BatchNorm` averages over the mapped axes, and over no others.

    Args:
      axes: None leaves the layers as they are.
    """
    seen = Seen([], [])

    def intercept(call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
        layer = context.module
        if context.method_name != "__call__":
            return call(*args, **kwargs)
        if isinstance(layer, nn.SpectralNorm):
            seen.averaged.append(layer.path)  # statistics of the weights: the same everywhere
        if isinstance(layer, nn.Dropout) and layer.rate:
            seen.training.append(not _mode(layer, "deterministic", args, kwargs))
        if not isinstance(layer, nn.BatchNorm):
            return call(*args, **kwargs)
        seen.averaged.append(layer.path)
        seen.training.append(not _mode(layer, "use_running_average", args, kwargs))
        held = layer.axis_name
        # A frozen dataclass, bound for this pass: a clone would be a second layer of its name.
        object.__setattr__(layer, "axis_name", held if axes is None else axes or None)
        try:
            return call(*args, **kwargs)
        finally:
            object.__setattr__(layer, "axis_name", held)

    with nn.intercept_methods(intercept):
        yield seen


def _mode(layer: nn.Module, name: str, args: tuple, kwargs: dict) -> Any:
    """The layer's mode, from its call `layer(x, mode)` or else its field."""
    told = kwargs.get(name, args[1] if len(args) > 1 else None)
    return getattr(layer, name) if told is None else told
