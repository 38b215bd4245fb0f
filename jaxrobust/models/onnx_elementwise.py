"""ONNX operators that take each number by itself: activations and arithmetic."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxrobust.models.onnx_operation import (
    Operation,
    Operator,
    Value,
    aligned,
    axis_of,
    known,
    library,
)
from jaxrobust.types import Array

SELU = (1.67326319217681884765625, 1.05070102214813232421875)
"""ONNX' alpha and gamma, those of `jax.nn.selu` in float32."""
FLOATS = {1, 11}
"""float32 and float64 in ONNX."""


def _each(h: Callable[[Array], Array]) -> Operator:
    """An activation without settings."""
    return lambda operation, x: h(jnp.asarray(x))


def _binary(name: str) -> Operator:
    """Arithmetic on two values, of NumPy where both are known."""

    def run(operation: Operation, a: Value, b: Value) -> Value:
        a, b = aligned(a, b)
        return getattr(library(a, b), name)(a, b)

    return run


def _folded(name: str) -> Operator:
    """Arithmetic on any number of values."""
    pair = _binary(name)
    return lambda operation, *values: functools.reduce(functools.partial(pair, operation), values)


def _unary(name: str) -> Operator:
    return lambda operation, x: getattr(library(x), name)(x)


def _divide(operation: Operation, a: Value, b: Value) -> Value:
    a, b = aligned(a, b)
    if np.issubdtype(a.dtype, np.integer):
        # whole numbers are cut off toward 0
        return np.trunc(np.divide(known(a, "integers"), known(b, "integers"))).astype(a.dtype)
    return library(a, b).divide(a, b)


def _power(operation: Operation, x: Value, exponent: Value) -> Value:
    told = exponent.reshape(-1).tolist() if isinstance(exponent, np.ndarray) else []
    if len(told) == 1 and float(told[0]).is_integer() and 0 < told[0] < 64:
        return lax.integer_pow(jnp.asarray(x), int(told[0]))
    if len(told) == 1 and told[0] == 0.5:
        return jnp.sqrt(x)
    x, exponent = aligned(x, exponent)
    return library(x, exponent).power(x, exponent.astype(x.dtype))


def _clip(
    operation: Operation, x: Value, least: Value | None = None, most: Value | None = None
) -> Value:
    for name, end, cut in (("min", least, jnp.maximum), ("max", most, jnp.minimum)):
        held = operation.get(name)
        bound = end if held is None else np.asarray(held, x.dtype)
        # older files say "none" by the largest float
        if bound is None or (held is not None and abs(held) > 3.4e38):
            continue
        x = cut(jnp.asarray(x), jnp.asarray(bound).reshape((1,) * x.ndim))
    return x


def _leaky_relu(operation: Operation, x: Value) -> Array:
    return jax.nn.leaky_relu(jnp.asarray(x), operation.get("alpha", 0.01))


def _prelu(operation: Operation, x: Value, slope: Value) -> Array:
    x, slope = aligned(x, slope)
    return jnp.where(x > 0, x, slope * x)


def _elu(operation: Operation, x: Value) -> Array:
    return jax.nn.elu(jnp.asarray(x), operation.get("alpha", 1.0))


def _celu(operation: Operation, x: Value) -> Array:
    return jax.nn.celu(jnp.asarray(x), operation.get("alpha", 1.0))


def _selu(operation: Operation, x: Value) -> Array:
    alpha, gamma = operation.get("alpha", SELU[0]), operation.get("gamma", SELU[1])
    if np.allclose((alpha, gamma), SELU, rtol=1e-6, atol=0):
        return jax.nn.selu(jnp.asarray(x))
    return gamma * jax.nn.elu(jnp.asarray(x), alpha)


def _hard_sigmoid(operation: Operation, x: Value) -> Array:
    line = operation.get("alpha", 0.2) * jnp.asarray(x) + operation.get("beta", 0.5)
    return jnp.clip(line, 0.0, 1.0)


def _gelu(operation: Operation, x: Value) -> Array:
    return jax.nn.gelu(jnp.asarray(x), approximate=operation.get("approximate") == "tanh")


def _softmax(h: Callable[..., Array]) -> Operator:
    def run(operation: Operation, x: Value) -> Array:
        if operation.opset >= 13:
            return h(jnp.asarray(x), axis=axis_of(operation.get("axis", -1), x.ndim))
        # of older files: over all axes from this one on
        axis = axis_of(operation.get("axis", 1), x.ndim)
        return h(jnp.asarray(x).reshape(*x.shape[:axis], -1), axis=-1).reshape(x.shape)

    return run


def _cast(operation: Operation, x: Value) -> Value:
    to = operation.get("to")
    if isinstance(x, np.ndarray):
        return x.astype(_dtype(to))
    if to not in FLOATS:
        raise ValueError("it casts values that depend on the input to a type other than a float")
    # the network computes in the type of its input
    return x


def _dtype(to: int) -> Any:
    dtypes = {1: "float32", 6: "int32", 7: "int64", 9: "bool", 11: "float64"}
    if to not in dtypes:
        raise ValueError(f"it casts to the ONNX type {to}, which is not known")
    return np.dtype(dtypes[to])


def _identity(operation: Operation, x: Value, *rest: Value | None) -> Value:
    del rest
    return x


def _host(name: str) -> Operator:
    """What only values known on the host may go through."""

    def run(operation: Operation, *values: Value) -> np.ndarray:
        return getattr(np, name)(*(known(v, f"operands of {operation.kind}") for v in values))

    return run


def _where(operation: Operation, condition: Value, a: Value, b: Value) -> Value:
    condition, a, b = aligned(known(condition, "conditions"), a, b)
    return library(a, b).where(condition, a, b)


ELEMENTWISE: dict[str, Operator] = {
    "Add": _binary("add"),
    "Sub": _binary("subtract"),
    "Mul": _binary("multiply"),
    "Div": _divide,
    "Pow": _power,
    "Max": _folded("maximum"),
    "Min": _folded("minimum"),
    "Sum": _folded("add"),
    "Neg": _unary("negative"),
    "Abs": _unary("abs"),
    "Sqrt": _unary("sqrt"),
    "Exp": _unary("exp"),
    "Log": _unary("log"),
    "Sin": _unary("sin"),
    "Cos": _unary("cos"),
    "Reciprocal": _unary("reciprocal"),
    "Relu": _each(jax.nn.relu),
    "LeakyRelu": _leaky_relu,
    "PRelu": _prelu,
    "Clip": _clip,
    "Sigmoid": _each(jax.nn.sigmoid),
    "Tanh": _each(jnp.tanh),
    "Elu": _elu,
    "Celu": _celu,
    "Selu": _selu,
    "Softplus": _each(jax.nn.softplus),
    "Softsign": _each(jax.nn.soft_sign),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _each(jax.nn.hard_swish),
    "Mish": _each(jax.nn.mish),
    "Gelu": _gelu,
    "Erf": _each(lax.erf),
    "Softmax": _softmax(jax.nn.softmax),
    "LogSoftmax": _softmax(jax.nn.log_softmax),
    "Cast": _cast,
    "Identity": _identity,
    "Dropout": _identity,
    "Equal": _host("equal"),
    "Greater": _host("greater"),
    "Less": _host("less"),
    "Not": _host("logical_not"),
    "And": _host("logical_and"),
    "Floor": _host("floor"),
    "Ceil": _host("ceil"),
    "Mod": _host("mod"),
    "Where": _where,
}
"""ONNX' name -> what runs."""
