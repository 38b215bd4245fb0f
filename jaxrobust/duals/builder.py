"""What tracing has recorded so far: affine steps, nodes, and how every value came about."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray, Tracer
from jax.extend import core

from jaxrobust.duals import relaxations
from jaxrobust.duals.graph import Node, Ref, Step, evaluate
from jaxrobust.duals.jaxpr_calls import Program, called, constant_name, fingerprint, literal
from jaxrobust.types import Array


class Made(NamedTuple):
    """The equation that a value is a result of, as the user's program has it."""

    name: str
    settings: tuple[tuple[str, str], ...]
    operands: tuple[Any, ...]


@dataclasses.dataclass
class Builder:
    """The operations recorded so far, what made each value, and which are max(z, constant).

    `calls` are the functions being inlined, such as an activation; `callers` tells them for each
    value.
    """

    handlers: Mapping[str, Handler]
    """Primitive -> how it is recorded; all others are taken for affine."""
    recognize: Callable[[Builder, str, list[Any]], list[Any] | None] = lambda *_: None
    """(builder, primitive, operands) -> results of an equation that ends what is known as a whole,
    such as an activation; None for others."""
    operations: list[Step | Node] = dataclasses.field(default_factory=list)
    producers: dict[int, Step | Node] = dataclasses.field(default_factory=dict)
    history: dict[int, Made] = dataclasses.field(default_factory=dict)
    maxima: dict[int, tuple[Ref, Array]] = dataclasses.field(default_factory=dict)
    count: int = 0
    callers: dict[int, str] = dataclasses.field(default_factory=dict)
    calls: list[str] = dataclasses.field(default_factory=list)

    @property
    def caller(self) -> str:
        """The functions being inlined."""
        return "/".join(self.calls)

    def fresh(self, aval: Any) -> Ref:
        self.count += 1
        self.callers[self.count] = self.caller
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

    def pair(self, kind: str, z: Ref) -> list[Ref]:
        """A node of the pairs along the first axis of `z`."""
        target = self.fresh(jax.ShapeDtypeStruct(z.shape[1:], z.dtype))
        return self.record(Node(kind, z, target))

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

    def decompose(self, h: Callable[..., Any], operands: Sequence[Any]) -> list[Any]:
        """Records h(*operands) in place of an equation."""
        specs = [jax.ShapeDtypeStruct(jnp.shape(o), o.dtype) for o in operands]
        with jax.default_matmul_precision("highest"):
            closed = jax.make_jaxpr(h)(*specs)
        return self.inline(closed.jaxpr, closed.consts, operands)

    def equation(self, equation: core.JaxprEqn, operands: list[Any]) -> list[Any]:
        inner = called(equation)
        if inner is not None:
            return self.call(equation, inner, operands)
        if not any(isinstance(o, Ref) for o in operands):
            return _fold(equation, operands)
        name, before = equation.primitive.name, self.count
        results = self.recognize(self, name, operands)
        if results is None:
            results = self.handlers.get(name, affine)(self, equation, operands)
        if len(results) == 1 and isinstance(results[0], Ref) and results[0].id > before:
            # over what its decomposition has left there
            settings = tuple(sorted((k, repr(v)) for k, v in equation.params.items()))
            self.history[results[0].id] = Made(name, settings, tuple(operands))
        return results

    def call(self, equation: core.JaxprEqn, inner: Program, operands: list[Any]) -> list[Any]:
        variables = [o for o in operands if isinstance(o, Ref)]
        kind = _registered(equation, inner, operands) if len(variables) == 1 else None
        if kind is not None:
            results = self.node(kind, variables[0])
            self.history.setdefault(results[0].id, Made(kind, (), (variables[0],)))
            return results
        named = [str(equation.params["name"])] if "name" in equation.params else []
        self.calls += named
        results = self.inline(*inner, operands)
        del self.calls[len(self.calls) - len(named) :]
        return results


Handler = Callable[[Builder, core.JaxprEqn, list[Any]], list[Any]]
"""(builder, equation, operands, one of them a `Ref` at least) -> the equation's results."""


def affine(builder: Builder, equation: core.JaxprEqn, operands: list[Any]) -> list[Any]:
    """A step as it stands; whether it is affine is asked of those steps alone that are needed."""
    targets = tuple(builder.fresh(v.aval) for v in equation.outvars)
    params = dict(equation.params)
    if "precision" in params:
        params["precision"] = _HIGHEST
    return builder.record(Step(equation.primitive, params, tuple(operands), targets))


def sides(operands: Sequence[Any]) -> tuple[list[Ref], list[Array]]:
    """The operands that depend on the input, and the constants."""
    variables = [o for o in operands if isinstance(o, Ref)]
    return variables, [o for o in operands if not isinstance(o, Ref)]


def _registered(equation: core.JaxprEqn, inner: Program, operands: Sequence[Any]) -> str | None:
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


_HIGHEST = (jax.lax.Precision.HIGHEST, jax.lax.Precision.HIGHEST)
"""Whatever the model asks for: TensorFloat-32 products would not be those of the bounds."""
