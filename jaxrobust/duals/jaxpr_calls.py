"""Call-like equations of a jaxpr: which they are, and when two are the same program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.extend import core

from jaxrobust import checks
from jaxrobust.types import Array

Program = tuple[core.Jaxpr, Sequence[Array]]
"""A jaxpr and its constants."""

_CALLS = {
    "jit",
    "pjit",
    "closed_call",
    "core_call",
    "custom_jvp_call",
    "custom_vjp_call",
    "custom_vjp_call_jaxpr",
    "remat",
    "remat2",
    "checkpoint",
}


def called(equation: core.JaxprEqn) -> Program | None:
    """The jaxpr and constants that a call-like equation runs, None for any other equation."""
    if equation.primitive.name not in _CALLS:
        return None
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        inner = equation.params.get(name)
        if isinstance(inner, core.ClosedJaxpr):
            return inner.jaxpr, inner.consts
        if isinstance(inner, core.Jaxpr):
            return inner, ()
    return None


def literal(value: core.Literal) -> np.ndarray:
    """A literal as an array of its type (weak types stripped)."""
    return np.asarray(value.val, cast(ShapedArray, value.aval).dtype)


def fingerprint(
    jaxpr: core.Jaxpr, consts: Sequence[Any], operands: Sequence[Any]
) -> tuple[Any, ...]:
    """A value that is equal for equal programs: calls inlined, variables numbered.

    `operands` are hashable names for what is passed in; scalar constants count by value.
    """
    lines: list[tuple[Any, ...]] = []

    def walk(jaxpr: core.Jaxpr, consts: Sequence[Any], operands: Sequence[Any]) -> list[Any]:
        names = dict(zip(jaxpr.constvars, map(constant_name, consts), strict=True))
        names |= dict(zip(jaxpr.invars, operands, strict=True))

        def name(atom: Any) -> Any:
            return constant_name(literal(atom)) if isinstance(atom, core.Literal) else names[atom]

        for equation in jaxpr.eqns:
            arguments = [name(a) for a in equation.invars]
            inner = called(equation)
            if inner is None:
                settings = sorted((k, repr(v)) for k, v in equation.params.items())
                results = [("line", len(lines), i) for i in range(len(equation.outvars))]
                lines.append((equation.primitive.name, tuple(arguments), tuple(settings)))
            else:
                results = walk(*inner, arguments)
            names.update(zip(equation.outvars, results, strict=True))
        return [name(a) for a in jaxpr.outvars]

    results = walk(jaxpr, consts, operands)
    return tuple(lines), tuple(results)


def constant_name(value: Array | np.ndarray) -> tuple[Any, ...]:
    """A constant's name in a fingerprint: its value where it is a scalar on the host."""
    if checks.is_concrete(value) and np.ndim(value) == 0:
        return ("constant", str(jnp.result_type(value)), float(value))
    return ("array", id(value))


def function_fingerprint(h: Callable[[Array], Array], shape: tuple[int, ...], dtype: Any) -> Any:
    """The fingerprint of a function of one array; cached."""
    x64 = jax.dtypes.canonicalize_dtype(np.float64) == np.float64
    return _function_fingerprint(h, shape, np.dtype(dtype), x64)


@lru_cache(maxsize=1024)
def _function_fingerprint(h: Callable[[Array], Array], shape: Any, dtype: Any, x64: bool) -> Any:
    closed = jax.make_jaxpr(h)(jax.ShapeDtypeStruct(shape, dtype))
    return fingerprint(closed.jaxpr, closed.consts, [("operand",)])
