"""What solvers on the host are given: a network's affine pieces as sparse matrices, and its set."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from scipy import sparse

from jaxrobust.duals.graph import Graph, Ref, pull, run
from jaxrobust.threats import L1, Linf, Union
from jaxrobust.types import Array, ThreatModel

_ROWS = 1024
"""Rows that are pulled back at a time."""


class Map(NamedTuple):
    """The values constant + sum_i matrices[i] @ (value i), flat, by the `Ref.id` of the values."""

    matrices: dict[int, sparse.csr_array]
    constant: np.ndarray


def affine_maps(graph: Graph) -> dict[int, Map]:
    """Every node's source and the logits as affine maps of the input and of nodes' targets.

    By `Ref.id`. One row each of a unit cotangent's way back to the nearest nodes, in the network's
    own precision; independent of the example. `graph` must hold no traced values.
    """

    def zero(ref: Ref) -> Array:
        return jnp.zeros(ref.shape, ref.dtype)

    seeds = {n.source.id: n.source for n in graph.nodes} | {graph.output.id: graph.output}
    with jax.default_matmul_precision("highest"):
        constants = run(graph, zero(graph.input), lambda node, _: zero(node.target))
        return {i: Map(_rows(graph, seed), flat(constants[i])) for i, seed in seeds.items()}


def _rows(graph: Graph, seed: Ref) -> dict[int, sparse.csr_array]:
    size = int(np.prod(seed.shape))

    @jax.jit
    def block(index: Array) -> dict[int, Array]:
        def one(i: Array) -> dict[int, Array]:
            row = (jnp.arange(size) == i).astype(seed.dtype).reshape(seed.shape)
            nu_x, reached = pull(graph, seed, row, lambda *_: None)
            return {k: nu.ravel() for k, nu in ({graph.input.id: nu_x} | reached).items()}

        return jax.vmap(one)(index)

    blocks = []
    for start in range(0, size, _ROWS):
        index = np.arange(start, start + min(size, _ROWS))
        # the last block repeats a row that is cut off again: one compiled shape
        made = block(np.minimum(index, size - 1))
        kept = int(np.sum(index < size))
        blocks.append(
            {k: sparse.csr_array(np.asarray(v[:kept], np.float64)) for k, v in made.items()}
        )
    stacked = {k: sparse.vstack([b[k] for b in blocks], format="csr") for k in blocks[0]}
    return cast(dict[int, sparse.csr_array], stacked)


def flat(value: Array | np.ndarray) -> np.ndarray:
    """A vector of float64 on the host."""
    return np.asarray(value, np.float64).ravel()


def require_host(x: Array) -> None:
    """Raises ValueError for a traced `x`."""
    if isinstance(x, Tracer):
        raise ValueError(
            "linear and integer programs are solved on the host, got a traced x; call them "
            "outside of jit, vmap and grad"
        )


def polyhedral(threat: ThreatModel, *, boxed: bool) -> Linf | L1:
    """The threat set as programs see it: without its pixel box, if not `boxed`.

    Raises ValueError, naming the set, unless it is a Linf or L1 ball.
    """
    if not isinstance(threat, Linf | L1):
        raise ValueError(
            f"linear programs hold Linf and L1 balls, got {type(threat).__name__}; take "
            "optimized_bounds for L2, and the worst over its members for a union"
        )
    return threat if boxed else cast(Linf | L1, unboxed(threat))


def unboxed(threat: ThreatModel) -> ThreatModel:
    """The ball, or the union of balls, without its pixel box."""
    if isinstance(threat, Union):
        return dataclasses.replace(threat, members=tuple(map(unboxed, threat.members)))
    lower, upper = (np.full(np.shape(threat.radius), end) for end in (-np.inf, np.inf))
    return dataclasses.replace(cast(Any, threat), lower=lower, upper=upper)
