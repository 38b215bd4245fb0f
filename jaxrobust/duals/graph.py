"""The small graph a traced classifier becomes: affine steps between elementwise nonlinear nodes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core

from jaxrobust.types import Array

_SIDE = 16
"""Side of the identity: as wide as a vector register."""


class Ref(NamedTuple):
    """A value that depends on the input; `id` is fresh for every value of every trace."""

    id: int
    shape: tuple[int, ...]
    dtype: Any


class Step(NamedTuple):
    """One operation, affine in all of its operands that are `Ref`s; the others are constants."""

    primitive: core.Primitive
    params: dict[str, Any]
    operands: tuple[Any, ...]
    targets: tuple[Ref, ...]

    @property
    def sources(self) -> tuple[Ref, ...]:
        """The operands that depend on the input, in order."""
        return tuple(o for o in self.operands if isinstance(o, Ref))

    def apply(self, *variables: Array) -> tuple[Array, ...]:
        """The step's outputs with `variables` in the places of `sources`."""
        values = iter(variables)
        filled = [next(values) if isinstance(o, Ref) else o for o in self.operands]
        return evaluate(self.primitive, self.params, filled)

    def transpose(self, *cotangents: Array) -> tuple[Array, ...]:
        """The transpose of the linear part: cotangents of `targets` to those of `sources`."""
        shapes = [jax.ShapeDtypeStruct(s.shape, s.dtype) for s in self.sources]
        return jax.linear_transpose(self.apply, *shapes)(cotangents)


class Node(NamedTuple):
    """An elementwise nonlinearity `target = h(source, *args)` with a registered relaxation.

    A product's source holds its two operands along a first axis that the target lacks.
    """

    kind: str
    source: Ref
    target: Ref
    args: tuple[Array, ...] = ()

    @property
    def sources(self) -> tuple[Ref, ...]:
        """`source`, in the form of a `Step`."""
        return (self.source,)

    @property
    def targets(self) -> tuple[Ref, ...]:
        """`target`, in the form of a `Step`."""
        return (self.target,)

    def gathered(self, value: Array) -> Array:
        """What terms of the source's shape add up to at the target."""
        return value if self.source.shape == self.target.shape else jnp.sum(value, axis=0)

    def spread(self, nu: Array) -> Array:
        """A cotangent of the target, to be multiplied by slopes of the source's shape."""
        return nu if self.source.shape == self.target.shape else nu[None]


class Graph(NamedTuple):
    """A classifier of one example: `operations` in order lead from `input` to `output` `[K]`.

    Holds the parameters as constants (or as tracers of the surrounding transformation, so that
    bounds differentiate in them); it lives as long as the trace that made it.
    """

    input: Ref
    output: Ref
    operations: tuple[Step | Node, ...]

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The nonlinear nodes, each after all that it depends on."""
        return tuple(o for o in self.operations if isinstance(o, Node))


def evaluate(
    primitive: core.Primitive, params: dict[str, Any], operands: Sequence[Array]
) -> tuple[Array, ...]:
    """A primitive's outputs as a tuple."""
    outputs = primitive.bind(*operands, **params)
    return tuple(outputs) if primitive.multiple_results else (outputs,)


def run(
    graph: Graph,
    x: Array,
    activate: Callable[[Node, Array], Array],
    apply: Callable[..., tuple[Array, ...]] = Step.apply,
) -> dict[int, Array]:
    """Evaluates the graph at `x`.

    With the nodes' own functions this is the classifier; with affine `activate` it is a relaxed
    network that may be differentiated or pushed forward like any function.

    Args:
      graph: the network, from `trace`.
      x: one example, of the shape of `graph.input`.
      activate: `activate(node, z)` evaluates a node at its source's value `z`.
      apply: `apply(step, *sources)` evaluates a step and returns a tuple of its targets' values.

    Returns:
      Every value of the graph by `Ref.id`, that of the input among them, each of its `Ref`'s shape.
    """
    values = {graph.input.id: x}
    for operation in graph.operations:
        if isinstance(operation, Node):
            values[operation.target.id] = activate(operation, values[operation.source.id])
        else:
            outputs = apply(operation, *(values[s.id] for s in operation.sources))
            values.update((t.id, v) for t, v in zip(operation.targets, outputs, strict=True))
    return values


def pull(
    graph: Graph,
    seed: Ref,
    cotangent: Array,
    slope: Callable[[Node, Array], Array | None],
) -> tuple[Array, dict[int, Array]]:
    """The dual network: pulls a row over the value `seed` back to the input.

    It takes one row; rows are a `vmap` axis.

    Args:
      graph: the network, from `trace`.
      seed: the value of the graph that the row is over.
      cotangent: the row, of the seed's shape.
      slope: `slope(node, nu)` is the cotangent of a node's source given `nu`, that of its target;
        None ends the path there.

    Returns:
      (cotangent of the input, cotangents of the reached nodes' targets): an array of the input's
      shape, 0 where no path leads to it, and arrays of the targets' shapes by `Ref.id`, those of
      nodes at which a path ends among them.
    """
    cotangents = {seed.id: cotangent}
    reached = {}

    def add(ref: Ref, value: Array) -> None:
        known = cotangents.get(ref.id)
        cotangents[ref.id] = value if known is None else known + value

    for operation in reversed(graph.operations):
        if isinstance(operation, Node):
            nu = cotangents.pop(operation.target.id, None)
            if nu is None:
                continue
            reached[operation.target.id] = nu = _held(nu)
            below = slope(operation, nu)
            if below is not None:
                add(operation.source, below)
        # values computed after the seed have no cotangent
        elif any(t.id in cotangents for t in operation.targets):
            arriving = [cotangents.pop(t.id, None) for t in operation.targets]
            arriving = [
                jnp.zeros(t.shape, t.dtype) if nu is None else nu
                for t, nu in zip(operation.targets, arriving, strict=True)
            ]
            leaving = operation.transpose(*arriving)
            for source, nu in zip(operation.sources, leaving, strict=True):
                add(source, nu)
    nu_x = cotangents.get(graph.input.id)
    if nu_x is None:
        nu_x = jnp.zeros(graph.input.shape, graph.input.dtype)
    return nu_x, reached


def _held(value: Array) -> Array:
    """The value, computed once for all of its readers.

    On CPUs, XLA computes the folding of a transposed convolution anew in every reader and drops
    barriers before that; a product with an identity, which is exact, it leaves alone. Values of
    one axis come from dense layers, whose own products stop it.
    """
    if value.ndim < 2 or jax.default_backend() != "cpu":
        return value
    side = math.gcd(value.size, _SIDE)
    return (value.reshape(-1, side) @ jnp.eye(side, dtype=value.dtype)).reshape(value.shape)


def ancestors(graph: Graph, target: Ref) -> set[int]:
    """The ids of every value that `target` is computed from, its own among them."""
    needed = {target.id}
    for operation in reversed(graph.operations):
        if any(t.id in needed for t in operation.targets):
            needed.update(s.id for s in operation.sources)
    return needed
