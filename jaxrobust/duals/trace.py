"""Tracing: any pure function of one example becomes affine steps between nonlinear nodes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxrobust.duals.builder import Builder
from jaxrobust.duals.graph import Graph, Ref, Step, ancestors
from jaxrobust.duals.handlers import HANDLERS
from jaxrobust.duals.patterns import recognized
from jaxrobust.duals.refusals import MEND, UnsupportedOperation, inside
from jaxrobust.duals.rounding import KNOWN
from jaxrobust.types import Array, LogitsFn


def trace(f: LogitsFn, x: Array) -> Graph:
    """The graph of `f` for examples of `x`'s shape and dtype; no value of `x` is used.

    Calls (`jit`, custom derivatives, `remat`) are inlined, loops and branches on constants written
    out and constants folded. Maxima, minima, absolute values, pooling, sigmoids, products,
    quotients and continuous two-piece `where`s become affine steps and nodes of the same value;
    activations of `jax.nn`, softmax and logsumexp are recognized where they are spelled out, too.
    An operation counts as affine when `jax.linear_transpose` accepts it and it cannot leak: no
    casts to integers or below 32 bits, no predicates or indices that depend on the input.
    Parameters may be traced values: bounds differentiate in them.

    AutoDual (Wong's thesis, section 3.3), for JAX programs in place of lists of layers.

    Args:
      f: any pure function of one example that returns logits `[K]`.
      x: one example of any shape, float32 or float64, or its `jax.ShapeDtypeStruct`.

    Returns:
      A `Graph`: `operations`, affine steps and nonlinear nodes in order, lead from `input`, of
      `x`'s shape, to `output` `[K]`. Only what the output depends on is kept.

    Raises:
      UnsupportedOperation: a ValueError that names the operation and the mend.
      ValueError: `x` is not float32 or float64, or `f` does not return one vector.
    """
    spec = jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x))
    if spec.dtype not in (jnp.float32, jnp.float64):
        raise ValueError(f"bounds need float32 or float64 inputs, got {spec.dtype}; cast x first")
    with jax.default_matmul_precision("highest"):
        closed, shapes = jax.make_jaxpr(f, return_shape=True)(spec)
    _require_vector(spec, shapes)
    builder = Builder(HANDLERS, recognized)
    source = builder.fresh(spec)
    (output,) = builder.inline(closed.jaxpr, closed.consts, [source])
    if not isinstance(output, Ref):
        raise ValueError("f does not depend on its input; there is nothing to bound")
    graph = Graph(source, output, tuple(builder.operations))
    needed = ancestors(graph, output)
    live = tuple(o for o in graph.operations if any(t.id in needed for t in o.targets))
    for operation in live:
        if isinstance(operation, Step):
            _require_affine(operation, builder.callers[operation.targets[0].id])
    return graph._replace(operations=live)


def logits_of(f: LogitsFn, x: Array) -> jax.ShapeDtypeStruct:
    """Shape and dtype of `f`'s logits; ValueError unless `f` returns one vector."""
    found = jax.eval_shape(f, x)
    _require_vector(x, found)
    return found


def _require_vector(x: Any, found: Any) -> None:
    if not isinstance(found, jax.ShapeDtypeStruct) or found.ndim != 1 or not found.shape[0]:
        raise ValueError(f"f must map one example {jnp.shape(x)} to logits [K], got {found}")


def _require_affine(step: Step, caller: str) -> None:
    """Raises UnsupportedOperation, which names the caller, unless the step is affine throughout."""
    name = step.primitive.name
    where = inside(caller)
    for value in (*step.sources, *step.targets):
        if not jnp.issubdtype(value.dtype, jnp.floating):
            raise UnsupportedOperation(
                f"{name!r}{where} makes or uses {value.dtype} values (a comparison, index or "
                f"cast) that depend on the input; {MEND}"
            )
        if jnp.finfo(value.dtype).bits < 32:
            raise UnsupportedOperation(
                f"{name!r}{where} computes in {value.dtype}, whose rounding no bound here covers; "
                "build the model with dtype=float32 or float64 for certificates"
            )
    narrowing = name == "convert_element_type" and (
        jnp.finfo(step.targets[0].dtype).bits < jnp.finfo(step.sources[0].dtype).bits
    )
    if narrowing or name == "reduce_precision":
        raise UnsupportedOperation(
            f"{name!r} rounds {step.sources[0].dtype} values to {step.targets[0].dtype}; give the "
            "input the type that the model computes in"
        )
    specs = [jax.ShapeDtypeStruct(t.shape, t.dtype) for t in step.targets]
    try:
        jax.eval_shape(step.transpose, *specs)
    except Exception as error:
        many = len(step.sources) > 1 and name == "conv_general_dilated"
        what = f"{name!r} of values that depend on the input" if many else f"operation {name!r}"
        what += where
        raise UnsupportedOperation(f"{what} is not affine and has no relaxation; {MEND}") from error
    if name not in KNOWN:
        raise UnsupportedOperation(f"no bound of the rounding of {name!r}{where} is known; {MEND}")
