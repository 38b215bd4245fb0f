"""Tracing: any pure function of one example becomes affine steps between nonlinear nodes."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray, Tracer
from jax.extend import core

from jaxrobust import checks
from jaxrobust.duals import relaxations
from jaxrobust.duals.decompositions import DECOMPOSITIONS
from jaxrobust.duals.graph import Graph, Node, Ref, Step, ancestors, evaluate
from jaxrobust.duals.jaxpr_calls import Program, called, constant_name, fingerprint, literal
from jaxrobust.duals.piecewise import decompose_select
from jaxrobust.duals.rounding import KNOWN
from jaxrobust.types import Array, LogitsFn


class UnsupportedOperation(ValueError):  # noqa: N818
    """The function holds an operation that is neither affine nor has a relaxation."""


def trace(f: LogitsFn, x: Array) -> Graph:
    """The graph of `f` for examples of `x`'s shape and dtype; no value of `x` is used.

    Calls (`jit`, custom derivatives, `remat`) are inlined and constants folded. Maxima, minima,
    absolute values, max-pooling, sigmoids and continuous two-piece `where`s become affine steps
    and nodes of the same value. An operation counts as affine when `jax.linear_transpose`
    accepts it and it cannot leak: no casts to integers or below 32 bits, no predicates or indices
    that depend on the input. Parameters may be traced values: bounds differentiate in them.

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
    builder = _Builder()
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


@dataclasses.dataclass
class _Builder:
    """The operations recorded so far, what made each value, and which are max(z, constant).

    `calls` are the functions being inlined, such as an activation; `callers` tells them for each
    value.
    """

    operations: list[Step | Node] = dataclasses.field(default_factory=list)
    producers: dict[int, Step | Node] = dataclasses.field(default_factory=dict)
    maxima: dict[int, tuple[Ref, Array]] = dataclasses.field(default_factory=dict)
    count: int = 0
    callers: dict[int, str] = dataclasses.field(default_factory=dict)
    calls: list[str] = dataclasses.field(default_factory=list)

    def fresh(self, aval: Any) -> Ref:
        self.count += 1
        self.callers[self.count] = "/".join(self.calls)
        return Ref(self.count, tuple(aval.shape), np.dtype(aval.dtype))

    def record(self, operation: Step | Node) -> list[Ref]:
        self.operations.append(operation)
        self.producers.update((t.id, operation) for t in operation.targets)
        return list(operation.targets)

    def node(self, kind: str, z: Ref, *args: Array) -> list[Ref]:
        # an activation applied twice to one value is one node: its bounds are computed once
        for made in self.operations:
            if isinstance(made, Node) and not args and made[:2] == (kind, z):
                return [made.target]
        return self.record(Node(kind, z, self.fresh(z), args))

    def inline(
        self, jaxpr: core.Jaxpr, consts: Sequence[Array], operands: Sequence[Any]
    ) -> list[Any]:
        # one environment per call: equal inner jaxprs share their variables
        values = dict(zip(jaxpr.constvars, consts, strict=True))
        values |= dict(zip(jaxpr.invars, operands, strict=True))

        def read(atom: Any) -> Any:
            return literal(atom) if isinstance(atom, core.Literal) else values[atom]

        for equation in jaxpr.eqns:
            results = self.equation(equation, [read(a) for a in equation.invars])
            values.update(zip(equation.outvars, results, strict=True))
        return [read(a) for a in jaxpr.outvars]

    def decompose(self, h: Callable[..., Array], operands: Sequence[Any]) -> list[Any]:
        specs = [jax.ShapeDtypeStruct(jnp.shape(o), o.dtype) for o in operands]
        closed = jax.make_jaxpr(h)(*specs)
        return self.inline(closed.jaxpr, closed.consts, operands)

    def equation(self, equation: core.JaxprEqn, operands: list[Any]) -> list[Any]:
        inner = called(equation)
        if inner is not None:
            return self.call(equation, inner, operands)
        if not any(isinstance(o, Ref) for o in operands):
            return _fold(equation, operands)
        return _HANDLERS.get(equation.primitive.name, _affine)(self, equation, operands)

    def call(self, equation: core.JaxprEqn, inner: Program, operands: list[Any]) -> list[Any]:
        variables = [o for o in operands if isinstance(o, Ref)]
        kind = _recognize(equation, inner, operands) if len(variables) == 1 else None
        if kind is not None:
            return self.node(kind, variables[0])
        named = [str(equation.params["name"])] if "name" in equation.params else []
        self.calls += named
        results = self.inline(*inner, operands)
        del self.calls[len(self.calls) - len(named) :]
        return results


Handler = Callable[[_Builder, core.JaxprEqn, list[Any]], list[Any]]
"""(builder, equation, operands, one of them a `Ref` at least) -> the equation's results."""


def _affine(builder: _Builder, equation: core.JaxprEqn, operands: list[Any]) -> list[Any]:
    """A step as it stands; whether it is affine is asked of those steps alone that are needed."""
    targets = tuple(builder.fresh(v.aval) for v in equation.outvars)
    params = dict(equation.params)
    if "precision" in params:
        params["precision"] = _HIGHEST
    return builder.record(Step(equation.primitive, params, tuple(operands), targets))


def _decomposed(builder: _Builder, equation: core.JaxprEqn, operands: list[Any]) -> list[Any]:
    same = functools.partial(DECOMPOSITIONS[equation.primitive.name], **equation.params)
    return builder.decompose(same, operands)


def _tanh(builder: _Builder, equation: core.JaxprEqn, operands: list[Any]) -> list[Any]:
    return builder.node("tanh", *operands)


def _max(builder: _Builder, equation: core.JaxprEqn, operands: list[Any]) -> list[Any]:
    """ReLU is the maximum with 0; what is max(z, constant) may become a clip later."""
    variables, constants = _sides(operands)
    if not constants:
        return _decomposed(builder, equation, operands)
    relu = _is_zero(constants[0])
    results = (
        builder.node("relu", variables[0])
        if relu
        else builder.decompose(DECOMPOSITIONS["max"], operands)
    )
    builder.maxima[results[0].id] = (variables[0], constants[0])
    return results


def _min(builder: _Builder, equation: core.JaxprEqn, operands: list[Any]) -> list[Any]:
    """A minimum after a maximum, both with constants, is a clip."""
    variables, constants = _sides(operands)
    if not constants or variables[0].id not in builder.maxima:
        return _decomposed(builder, equation, operands)
    z, floor = builder.maxima[variables[0].id]
    return builder.node("clip", z, *(_spread(c, z) for c in (floor, constants[0])))


def _select_n(builder: _Builder, equation: core.JaxprEqn, operands: list[Any]) -> list[Any]:
    """Two continuous pieces are ReLUs; any other choice is affine where its predicate is known."""
    found = decompose_select(builder.producers, builder.maxima, operands)
    if found is None:
        return _affine(builder, equation, operands)
    return builder.decompose(*found)


_HANDLERS: dict[str, Handler] = {
    **dict.fromkeys(DECOMPOSITIONS, _decomposed),
    "tanh": _tanh,
    "max": _max,
    "min": _min,
    "select_n": _select_n,
}
"""Primitive -> how it is recorded; all others are taken for affine."""


def _sides(operands: list[Any]) -> tuple[list[Ref], list[Array]]:
    """The operands that depend on the input, and the constants."""
    variables = [o for o in operands if isinstance(o, Ref)]
    return variables, [o for o in operands if not isinstance(o, Ref)]


def _recognize(equation: core.JaxprEqn, inner: Program, operands: Sequence[Any]) -> str | None:
    """The registered activation whose program this call runs on its one variable operand."""
    (z,) = (o for o in operands if isinstance(o, Ref))
    if len(equation.outvars) != 1 or cast(ShapedArray, equation.outvars[0].aval).shape != z.shape:
        return None
    names = [("operand",) if isinstance(o, Ref) else constant_name(o) for o in operands]
    return relaxations.recognize(fingerprint(*inner, names), z.shape, z.dtype)


def _fold(equation: core.JaxprEqn, operands: Sequence[Array]) -> list[Array]:
    if any(isinstance(o, Tracer) for o in operands):
        return list(evaluate(equation.primitive, equation.params, operands))
    # also under an outer jit: thresholds and pads must be known while tracing
    with jax.ensure_compile_time_eval():
        return list(evaluate(equation.primitive, equation.params, operands))


def _is_zero(constant: Array) -> bool:
    return checks.is_concrete(constant) and not np.any(np.asarray(constant))


def _spread(constant: Array, z: Ref) -> Array:
    return jnp.broadcast_to(jnp.asarray(constant, z.dtype), z.shape)


def _require_affine(step: Step, caller: str) -> None:
    """Raises UnsupportedOperation, which names the caller, unless the step is affine throughout."""
    name = step.primitive.name
    inside = f" in {caller!r}" if caller else ""
    for value in (*step.sources, *step.targets):
        if not jnp.issubdtype(value.dtype, jnp.floating):
            raise UnsupportedOperation(
                f"{name!r}{inside} makes or uses {value.dtype} values (a comparison, index or "
                f"cast) that depend on the input; {_MEND}"
            )
        if jnp.finfo(value.dtype).bits < 32:
            raise UnsupportedOperation(
                f"{name!r}{inside} computes in {value.dtype}, whose rounding no bound here covers; "
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
        many = len(step.sources) > 1 and name in ("mul", "dot_general", "div")
        what = f"{name!r} of values that depend on the input" if many else f"operation {name!r}"
        what += inside
        raise UnsupportedOperation(
            f"{what} is not affine and has no relaxation; {_MEND}"
        ) from error
    if name not in KNOWN:
        raise UnsupportedOperation(
            f"no bound of the rounding of {name!r}{inside} is known; {_MEND}"
        )


_HIGHEST = (jax.lax.Precision.HIGHEST, jax.lax.Precision.HIGHEST)
"""Whatever the model asks for: TensorFloat-32 products would not be those of the bounds."""
_MEND = (
    "use relu, leaky_relu, clip, hard_tanh, abs, max, min, max-pooling, sigmoid, tanh or softplus "
    "of jax.nn and jax.numpy, return logits without softmax, or register a relaxation of the "
    "activation with jaxrobust.duals.register"
)
