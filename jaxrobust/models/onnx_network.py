"""A network of an ONNX file as a pure function of its numbers and one example."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.models.onnx_elementwise import ELEMENTWISE
from jaxrobust.models.onnx_layers import LAYERS
from jaxrobust.models.onnx_operation import Constant, Operation, Operator, Value
from jaxrobust.models.onnx_shapes import SHAPES
from jaxrobust.types import Array, Key, PyTree, Variables

OPERATORS: dict[str, Operator] = {**LAYERS, **ELEMENTWISE, **SHAPES}
"""ONNX' name -> what runs."""


@dataclasses.dataclass(frozen=True)
class Network:
    """What a file computes, without its weights: networks that differ by those alone are equal."""

    source: str
    """The value that is the input."""
    shape: tuple[int, ...]
    """That of one example."""
    batched: bool
    """Whether the file's input has an axis of one example before those of `shape`."""
    target: str
    """The value that is the output."""
    constants: tuple[tuple[str, Constant], ...]
    """What is known on the host, by name."""
    operations: tuple[Operation, ...]

    def __call__(self, variables: Variables, x: Array) -> Array:
        """The outputs `[K]` of one example, flattened, in its dtype.

        Raises:
          ValueError: an example of another shape; or, when first traced, an operator that does not
            fit its operands, by name.
        """
        if jnp.shape(x) != self.shape:
            raise ValueError(f"the network takes examples {self.shape}, got {jnp.shape(x)}")
        dtype = jnp.result_type(x)
        values: dict[str, Any] = {"": None, self.source: x[None] if self.batched else x}
        values |= {name: _computed(constant.array, dtype) for name, constant in self.constants}
        for numbers in (variables.params, variables.stats):
            values |= {name: jnp.asarray(v).astype(dtype) for name, v in dict(numbers).items()}
        for operation in self.operations:
            found = _run(operation, values)
            # outputs that are left out, or not computed, come last
            values.update(
                (name, _computed(value, dtype))
                for name, value in zip(operation.outputs, found, strict=False)
                if name
            )
        return jnp.ravel(values[self.target])


def _run(operation: Operation, values: Mapping[str, Value | None]) -> list[Value]:
    missing = [name for name in operation.inputs if name not in values]
    if missing:
        raise ValueError(
            f"the operator {operation.kind!r} of node {operation.name!r} takes {missing[0]!r}, "
            "which nothing computes here"
        )
    inputs = [values[name] for name in operation.inputs]
    try:
        found = OPERATORS[operation.kind](operation, *inputs)
    # what is wrong with a node shows in errors of many kinds
    except Exception as error:
        shapes = ", ".join("none" if v is None else str(v.shape) for v in inputs)
        raise ValueError(
            f"the operator {operation.kind!r} of node {operation.name!r} with inputs of shape "
            f"{shapes}: {error}"
        ) from error
    return list(found) if isinstance(found, list | tuple) else [found]


def _computed(value: Value, dtype: Any) -> Value:
    """What is known on the host, in the type that the network computes in where it is a float."""
    if isinstance(value, jax.Array):
        return value
    value = np.asarray(value)
    return value.astype(dtype) if np.issubdtype(value.dtype, np.floating) else value


@dataclasses.dataclass(frozen=True)
class Batched:
    """`Model.apply` of a network. In every pass it is that of the file."""

    network: Network

    def __call__(
        self,
        variables: Variables,
        x: Array,
        *,
        train: bool = False,
        key: Key | None = None,
        axes: tuple[str, ...] = (),
    ) -> tuple[Array, PyTree]:
        """`(outputs [B, K], variables.stats)` of a batch."""
        del train, key, axes
        if len(x) == 1:  # one example, as bounds trace it, without an axis for it
            return self.network(variables, x[0])[None], variables.stats
        return jax.vmap(lambda one: self.network(variables, one))(x), variables.stats
