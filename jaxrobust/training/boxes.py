"""Whether training examples lie where the sets of a training method look for adversarial ones."""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Iterator, Mapping
from typing import Any, cast

import numpy as np

from jaxrobust.attacks.batch import box_of, in_box
from jaxrobust.data import to_inputs
from jaxrobust.defenses import Defense
from jaxrobust.types import Array, ThreatModel


def require_boxed(defense: Defense, x: np.ndarray) -> None:
    """Raises ValueError if examples lie outside of the box of a threat set of the method.

    Its attacks would clip them, and training would see other examples than evaluation.

    Args:
      defense: the training method; its sets are found in its closures and attacks.
      x: training examples `[N, ...]`, uint8 or floats.
    """
    # A box bounds every coordinate by itself, so that the ends of each tell of all examples.
    ends = cast(Array, np.asarray(to_inputs(np.stack([x.min(axis=0), x.max(axis=0)]))))
    for threat in _sets(defense, set()):
        in_box(ends, box_of(threat))


def _sets(value: Any, seen: set[int]) -> Iterator[Any]:
    """The threat sets that a value holds in its fields, its items, and its functions' closures."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, ThreatModel):
        yield value
        return
    for part in _parts(value):
        yield from _sets(part, seen)


def _parts(value: Any) -> list[Any]:
    if isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or () if _is_full(cell)]
        return [*cells, *(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
    if isinstance(value, types.MethodType):
        return [value.__self__, value.__func__]
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, list | tuple):
        return list(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, field.name) for field in dataclasses.fields(value)]
    return []


def _is_full(cell: types.CellType) -> bool:
    """Whether the variable has a value yet."""
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True
