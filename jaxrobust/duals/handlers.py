"""How each primitive that is not affine is recorded: as affine steps and nodes."""

from __future__ import annotations

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core

from jaxrobust import checks
from jaxrobust.duals import unrolled
from jaxrobust.duals.builder import Builder, Handler, affine, sides
from jaxrobust.duals.decompositions import DECOMPOSITIONS
from jaxrobust.duals.graph import Ref
from jaxrobust.duals.piecewise import decompose_select
from jaxrobust.duals.refusals import UnsupportedOperation, inside
from jaxrobust.types import Array


def _decomposed(builder: Builder, equation: core.JaxprEqn, operands: list[Any]) -> list[Any]:
    same = functools.partial(DECOMPOSITIONS[equation.primitive.name], **equation.params)
    return builder.decompose(same, operands)


def _node(builder: Builder, equation: core.JaxprEqn, operands: list[Any]) -> list[Any]:
    return builder.node(equation.primitive.name, *operands)


def _max(builder: Builder, equation: core.JaxprEqn, operands: list[Any]) -> list[Any]:
    """ReLU is the maximum with 0; what is max(z, constant) may become a clip later."""
    variables, constants = sides(operands)
    if not constants:
        return _decomposed(builder, equation, operands)
    if _is(constants[0], -np.inf):
        return [*variables]
    relu = _is(constants[0], 0)
    results = (
        builder.node("relu", variables[0])
        if relu
        else builder.decompose(DECOMPOSITIONS["max"], operands)
    )
    builder.maxima[results[0].id] = (variables[0], constants[0])
    return results


def _min(builder: Builder, equation: core.JaxprEqn, operands: list[Any]) -> list[Any]:
    """A minimum after a maximum, both with constants, is a clip."""
    variables, constants = sides(operands)
    if constants and _is(constants[0], np.inf):
        return [*variables]
    if not constants or variables[0].id not in builder.maxima:
        return _decomposed(builder, equation, operands)
    z, floor = builder.maxima[variables[0].id]
    return builder.node("clip", z, *(_spread(c, z) for c in (floor, constants[0])))


def _select_n(builder: Builder, equation: core.JaxprEqn, operands: list[Any]) -> list[Any]:
    """Two continuous pieces are ReLUs; any other choice is affine where its predicate is known."""
    found = decompose_select(builder.producers, builder.maxima, operands)
    if found is None:
        return affine(builder, equation, operands)
    return builder.decompose(*found)


def _mul(builder: Builder, equation: core.JaxprEqn, operands: list[Any]) -> list[Any]:
    left, right = operands
    if not isinstance(left, Ref) or not isinstance(right, Ref):
        return affine(builder, equation, operands)
    if left == right:
        return builder.node("square", left)
    (pair,) = builder.decompose(lambda a, b: jnp.stack(jnp.broadcast_arrays(a, b)), operands)
    return builder.pair("product", pair)


def _div(builder: Builder, equation: core.JaxprEqn, operands: list[Any]) -> list[Any]:
    if not isinstance(operands[1], Ref):
        return affine(builder, equation, operands)
    return builder.decompose(lambda a, b: a * lax.integer_pow(b, -1), operands)


def _integer_pow(builder: Builder, equation: core.JaxprEqn, operands: list[Any]) -> list[Any]:
    power = equation.params["y"]
    if power == 1:
        return [*operands]
    return builder.node("square" if power == 2 else f"power {power}", *operands)


def _pow(builder: Builder, equation: core.JaxprEqn, operands: list[Any]) -> list[Any]:
    """z ** constant; a constant above 0, or z above 0, to a power that depends on the input."""
    base, power = operands
    if isinstance(power, Ref):
        return builder.decompose(lambda a, b: jnp.exp(b * jnp.log(a)), operands)
    if not checks.is_concrete(power) or np.ptp(np.asarray(power)) != 0:
        raise UnsupportedOperation(
            f"'pow'{inside(builder.caller)} takes exponents that are traced or differ; bounds need "
            "one constant number"
        )
    p = float(np.asarray(power).flat[0])
    if p.is_integer():
        return builder.decompose(lambda z: lax.integer_pow(z, int(p)), [base])
    return builder.node(f"power {p!r}", base)


def _dot_general(builder: Builder, equation: core.JaxprEqn, operands: list[Any]) -> list[Any]:
    """A matrix product of two values that depend on the input: products, and their sum."""
    if not all(isinstance(o, Ref) for o in operands):
        return affine(builder, equation, operands)
    (contracted, batch) = equation.params["dimension_numbers"]

    def summed(a: Array, b: Array) -> Array:
        free = [
            [i for i in range(v.ndim) if i not in (*c, *first)]
            for v, c, first in zip((a, b), contracted, batch, strict=True)
        ]
        a = a.transpose(*batch[0], *free[0], *contracted[0])
        b = b.transpose(*batch[1], *free[1], *contracted[1])
        n, left, right = len(batch[0]), len(free[0]), len(free[1])
        a = jnp.expand_dims(a, range(n + left, n + left + right))
        b = jnp.expand_dims(b, range(n, n + left))
        axes = tuple(range(n + left + right, n + left + right + len(contracted[0])))
        shape = jnp.broadcast_shapes(a.shape, b.shape)
        return jnp.sum(jnp.broadcast_to(a, shape) * jnp.broadcast_to(b, shape), axis=axes)

    return builder.decompose(summed, operands)


def _always(value: bool) -> Handler:
    """Predicates of a number with itself, and of finite numbers, which real ones are."""

    def handler(builder: Builder, equation: core.JaxprEqn, operands: list[Any]) -> list[Any]:
        if len(operands) == 2 and operands[0] != operands[1]:
            return affine(builder, equation, operands)
        return [np.full(equation.outvars[0].aval.shape, value)]  # pyright: ignore[reportAttributeAccessIssue]

    return handler


HANDLERS: dict[str, Handler] = {
    **dict.fromkeys(DECOMPOSITIONS, _decomposed),
    **dict.fromkeys(
        ("exp", "exp2", "expm1", "log", "log1p", "sqrt", "rsqrt", "square", "sin", "cos"), _node
    ),
    **dict.fromkeys(("erf", "erfc", "atan", "tanh"), _node),
    "max": _max,
    "min": _min,
    "select_n": _select_n,
    "mul": _mul,
    "div": _div,
    "integer_pow": _integer_pow,
    "pow": _pow,
    "dot_general": _dot_general,
    "ne": _always(False),
    "eq": _always(True),
    "is_finite": _always(True),
    "scan": unrolled.scan,
    "while": unrolled.while_loop,
    "cond": unrolled.cond,
}
"""Primitive -> how it is recorded; all others are taken for affine."""


def _is(constant: Array, number: float) -> bool:
    return checks.is_concrete(constant) and bool(np.all(np.asarray(constant) == number))


def _spread(constant: Array, z: Ref) -> Array:
    return jnp.broadcast_to(jnp.asarray(constant, z.dtype), z.shape)
