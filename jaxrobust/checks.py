"""Input checks at construction and at the host boundary: one error that names value and mend.

Traced values pass unchecked: a check may never force a device round trip inside a compiled
program.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np


def is_concrete(value: Any) -> bool:
    """Whether `value` is a number (or array) known on the host now."""
    if isinstance(value, jax.core.Tracer):
        return False
    return isinstance(value, int | float | np.ndarray | np.generic | jax.Array)


def _require_number(name: str, value: Any) -> None:
    if not isinstance(value, jax.core.Tracer) and not is_concrete(value):
        raise ValueError(f"{name} must be a number or an array of numbers, got {value!r}")


def nonnegative(name: str, value: Any) -> None:
    """Raises ValueError unless every concrete entry of `value` is finite and at least 0."""
    _require_number(name, value)
    if is_concrete(value):
        array = np.asarray(value)
        if not (np.isfinite(array).all() and (array >= 0).all()):
            raise ValueError(f"{name} must be finite and at least 0, got {value}")


def positive(name: str, value: Any) -> None:
    """Raises ValueError unless every concrete entry of `value` is finite and above 0."""
    _require_number(name, value)
    if is_concrete(value):
        array = np.asarray(value)
        if not (np.isfinite(array).all() and (array > 0).all()):
            raise ValueError(f"{name} must be finite and above 0, got {value}")


def share(name: str, value: Any) -> None:
    """Raises ValueError unless every concrete entry of `value` lies between 0 and 1."""
    nonnegative(name, value)
    if is_concrete(value) and (np.asarray(value) > 1).any():
        raise ValueError(f"{name} is a share, at most 1, got {value}")


def at_least(name: str, value: Any, least: int) -> None:
    """Raises ValueError unless `value` is a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")


def choice(name: str, value: Any, known: Iterable[str]) -> None:
    """Raises ValueError unless `value` is one of `known`; suggests the nearest spelling."""
    known = sorted(known)
    if value not in known:
        near = difflib.get_close_matches(str(value), known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise ValueError(f"unknown {name} {value!r}{hint} Known: {', '.join(known)}")


def images(x: Any, *, lower: float = 0.0, upper: float = 1.0) -> None:
    """Raises ValueError unless `x` is a float array of finite values inside [lower, upper]."""
    x = np.asarray(x)
    if not np.issubdtype(x.dtype, np.floating) and x.dtype.name != "bfloat16":
        raise ValueError(
            f"inputs must be floating point in [{lower}, {upper}], got {x.dtype}; "
            "convert 8-bit images with x / 255"
        )
    if not np.isfinite(x).all():
        raise ValueError(f"inputs hold {int((~np.isfinite(x)).sum())} NaN or infinite values")
    if x.size and (x.min() < lower or x.max() > upper):
        raise ValueError(
            f"inputs span [{x.min():.4g}, {x.max():.4g}] but must lie in [{lower}, {upper}]; "
            "undo any normalization (it belongs inside the model) or divide 8-bit images by 255"
        )


def labels(y: Any, *, count: int, num_classes: int) -> None:
    """Raises ValueError unless `y` holds `count` integers in [0, num_classes)."""
    if num_classes < 2:
        raise ValueError(f"a classifier needs at least 2 classes, got {num_classes}")
    y = np.asarray(y)
    if y.shape != (count,):
        raise ValueError(
            f"labels must have shape ({count},), one integer per example, got {y.shape}; "
            "one-hot labels need argmax first"
        )
    if not np.issubdtype(y.dtype, np.integer):
        raise ValueError(f"labels must be integers, got {y.dtype}")
    if y.size and (y.min() < 0 or y.max() >= num_classes):
        raise ValueError(
            f"labels span [{y.min()}, {y.max()}] but the model has {num_classes} classes "
            f"(0 to {num_classes - 1})"
        )
