"""Input checks at construction and at the host boundary: one error that names value and mend.

Traced values pass unchecked: a check may never force a device round trip inside a compiled
program.
"""

from __future__ import annotations

import contextlib
import difflib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


@contextlib.contextmanager
def extra(name: str) -> Iterator[None]:
    """Around imports that only an extra of the package installs.

    Raises ModuleNotFoundError that says how to install it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{error.name} is not installed; it comes with: pip install 'jaxrobust[{name}]'",
            name=error.name,
        ) from error


def is_concrete(value: Any) -> bool:
    """Whether `value` is a number (or array) known on the host now."""
    if isinstance(value, Tracer):
        return False
    return isinstance(value, int | float | np.ndarray | np.generic | jax.Array)


def _require_number(name: str, value: Any) -> None:
    if not isinstance(value, Tracer) and not is_concrete(value):
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


def fraction(name: str, value: Any) -> None:
    """Raises ValueError unless every concrete entry of `value` lies between 0 and 1."""
    nonnegative(name, value)
    if is_concrete(value) and (np.asarray(value) > 1).any():
        raise ValueError(f"{name} is a share, at most 1, got {value}")


def options(
    kind: str,
    name: str,
    chosen: Mapping[str, object],
    factory: Callable,
    *,
    given: Sequence[str] = (),
) -> None:
    """Raises TypeError unless `factory` has a parameter for each of the options chosen by name.

    Args:
      given: its parameters that are no options.
    """
    known = [n for n in inspect.signature(factory).parameters if n not in given]
    for option in chosen:
        if option not in known:
            has = ", ".join(sorted(known)) or "none"
            raise TypeError(f"{kind} {name!r} has no option {option!r}; it has: {has}")


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


ROUNDING = 2e-6
"""What float32 may have put an input outside of its box, in units of 1 + |bound|: resizing and
round trips through other types leave pixels such as 1 + 2e-7."""


def images(x: Any, *, lower: Any = 0.0, upper: Any = 1.0) -> Any:
    """`x`, clipped to [lower, upper] where only rounding put it outside.

    Args:
      lower, upper: numbers, or arrays that broadcast with `x`; infinite where there is no box.

    Raises ValueError unless `x` is a float array of finite values inside the box, but for
    `ROUNDING`.
    """
    found = np.asarray(x)
    told = f"[{np.min(lower):.9g}, {np.max(upper):.9g}]"
    if not np.issubdtype(found.dtype, np.floating) and found.dtype.name != "bfloat16":
        raise ValueError(
            f"inputs must be floating point in {told}, got {found.dtype}; "
            "convert 8-bit images with x / 255"
        )
    if not np.isfinite(found).all():
        raise ValueError(f"inputs hold {int((~np.isfinite(found)).sum())} NaN or infinite values")
    lower, upper = (np.asarray(end, np.float64) for end in (lower, upper))
    if ((found >= lower) & (found <= upper)).all():
        return x
    below, above = ((lower - found).max(), (found - upper).max())
    rooms = [ROUNDING * (1 + np.abs(b[np.isfinite(b)]).max(initial=0)) for b in (lower, upper)]
    if below > rooms[0] or above > rooms[1]:
        raise ValueError(
            f"inputs span [{found.min():.9g}, {found.max():.9g}] but must lie in {told}, which "
            f"they leave by {max(below, above):.3g}; undo any normalization (it belongs inside the "
            "model), divide 8-bit images by 255, or give the threat the box of the data (lower, "
            "upper; -inf and inf for none)"
        )
    return np.clip(found, lower, upper).astype(found.dtype)


def label(name: str, y: Any, *, num_classes: int) -> None:
    """Raises ValueError unless `y` is one integer and, if concrete, in [0, num_classes)."""
    shape, dtype = np.shape(y), jnp.result_type(y)
    if shape or not jnp.issubdtype(dtype, jnp.integer):
        raise ValueError(
            f"{name} must be one integer, got {dtype} of shape {shape}; "
            "map over a batch with jax.vmap"
        )
    if is_concrete(y) and not 0 <= int(y) < num_classes:
        raise ValueError(f"{name}={int(y)} is none of {num_classes} classes, counted from 0")


def labels(y: Any, *, count: int, num_classes: int) -> None:
    """Raises ValueError unless `y` holds `count` integers in [0, num_classes)."""
    if num_classes < 2:
        raise ValueError(
            f"a classifier needs at least 2 classes, got {num_classes}"
            + ("; one output is wrapped by models.binary" if num_classes == 1 else "")
        )
    y = np.asarray(y)
    if y.shape != (count,):
        raise ValueError(
            f"labels must have shape ({count},), one integer per example, got {y.shape}"
            + ("; one-hot labels need argmax first" if y.ndim == 2 else "")
        )
    if not np.issubdtype(y.dtype, np.integer):
        raise ValueError(f"labels must be integers, got {y.dtype}")
    if y.size and (y.min() < 0 or y.max() >= num_classes):
        raise ValueError(
            f"labels span [{y.min()}, {y.max()}] but the model has {num_classes} classes "
            f"(0 to {num_classes - 1})"
        )
