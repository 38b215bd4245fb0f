"""One operator of an ONNX file: what it is called, what it takes, and what is known of that."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Value = np.ndarray | jax.Array
"""NumPy's where it is known on the host, such as a shape; JAX's else."""


@dataclasses.dataclass(frozen=True)
class Constant:
    """An array with a hash."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes

    @classmethod
    def of(cls, array: np.ndarray) -> Constant:
        """The array as a constant."""
        return cls(array.dtype.str, array.shape, array.tobytes())

    @property
    def array(self) -> np.ndarray:
        """The constant as an array."""
        return np.frombuffer(self.data, self.dtype).reshape(self.shape)


@dataclasses.dataclass(frozen=True)
class Operation:
    """A node of the file's graph."""

    kind: str
    inputs: tuple[str, ...]
    """Names of values; "" for an optional one that is left out."""
    outputs: tuple[str, ...]
    settings: tuple[tuple[str, Any], ...]
    """The attributes by name, with hashes."""
    opset: int
    """The version of the operators' definitions."""
    name: str = dataclasses.field(compare=False)

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute, or the default where the file does not tell."""
        return dict(self.settings).get(name, default)


Operator = Callable[..., Any]
"""(operation, *inputs) -> its output, or a list of them. An input left out is None."""


def known(value: Value | None, what: str) -> np.ndarray:
    """The value, which must be known on the host.

    Raises:
      ValueError: it depends on the network's input or weights.
    """
    if not isinstance(value, np.ndarray):
        raise ValueError(f"{what} must be constants in the file")
    return value


def integers(value: Value | None, what: str) -> list[int]:
    """Whole numbers known on the host."""
    return [int(v) for v in known(value, what).reshape(-1)]


def chosen(operation: Operation, name: str, value: Value | None) -> list[int] | None:
    """Whole numbers that are an attribute in older files and an input in newer ones."""
    held = operation.get(name)
    if held is not None:
        return [held] if isinstance(held, int) else list(held)
    return None if value is None else integers(value, name)


def axes_of(operation: Operation, x: Value, value: Value | None) -> tuple[int, ...] | None:
    """The `axes` of an operator, counted from the front; None where they are not told.

    Raises:
      ValueError: an axis that `x` does not have.
    """
    axes = chosen(operation, "axes", value)
    return None if axes is None else tuple(axis_of(a, x.ndim) for a in axes)


def axis_of(axis: int, rank: int) -> int:
    """The axis, counted from the front.

    Raises:
      ValueError: there is none.
    """
    if not -rank <= axis < rank:
        raise ValueError(f"axis {axis} of {rank} axes")
    return axis % rank


def library(*values: Value) -> Any:
    """NumPy where all is known on the host, else JAX's."""
    return np if all(isinstance(v, np.ndarray) for v in values) else jnp


def aligned(*values: Value) -> list[Value]:
    """The values with as many axes as the one that has most: new ones come first."""
    rank = max(v.ndim for v in values)
    return [v.reshape((1,) * (rank - v.ndim) + v.shape) for v in values]
