"""Activations and normalizations that a program spells out, recognized as what they are.

x * sigmoid(x) taken for a product of two numbers loses most of a bound. What ends a known formula
is therefore compared, backwards, with the known function traced in the same way; constants may
differ by a rounding. The equations before it are then needed by nobody and dropped.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import checks
from jaxrobust.duals.builder import Builder, Made
from jaxrobust.duals.graph import Ref
from jaxrobust.duals.handlers import HANDLERS
from jaxrobust.duals.normalizations import log_softmax, logsumexp, softmax
from jaxrobust.types import Array

_COMMUTE = {"add", "add_any", "max", "min", "mul"}
_NEAR = 6
"""Equations between a sum of exponentials and the end of its formula, at most."""

Formula = Callable[[Array], Array]

_PRODUCTS: dict[str, tuple[Formula, ...]] = {
    "silu": (jax.nn.silu,),
    "gelu": (
        lambda z: jax.nn.gelu(z, approximate=False),
        lambda z: 0.5 * z * (1 + jax.lax.erf(z / np.sqrt(2))),
        lambda z: z * (0.5 * (1 + jax.lax.erf(z / np.sqrt(2)))),
        lambda z: 0.5 * (z * (1 + jax.lax.erf(z / np.sqrt(2)))),
        lambda z: 0.5 * z * (1 + jax.lax.erf(z * np.sqrt(0.5))),
        lambda z: z * (0.5 * (1 + jax.lax.erf(z * np.sqrt(0.5)))),
    ),
    "gelu_tanh": (
        jax.nn.gelu,
        lambda z: 0.5 * z * (1 + jnp.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3))),
    ),
    "mish": (jax.nn.mish,),
    "hard_silu": (jax.nn.hard_silu,),
}
_QUOTIENTS: dict[str, tuple[Formula, ...]] = {
    "soft_sign": (jax.nn.soft_sign,),
    "squareplus": (jax.nn.squareplus,),
}


def recognized(builder: Builder, name: str, operands: list[Any]) -> list[Any] | None:
    """The results of an equation that ends a known formula, None for any other."""
    variables = [o for o in operands if isinstance(o, Ref)]
    for kind, formula in _activations(builder, name, operands):
        # a choice's first operand is its predicate
        z = _match(builder, name, operands, formula, variables[-1])
        if z is not None:
            return builder.node(kind, z)
    for formula, same, source in _normalizations(builder, name, operands):
        z = _match(builder, name, operands, formula, source)
        if z is not None:
            return builder.decompose(same, [z])
    pair = _logaddexp(builder, name, operands)
    return pair and builder.decompose(lambda a, b: b + jax.nn.softplus(a - b), pair)


def _logaddexp(builder: Builder, name: str, operands: list[Any]) -> list[Any] | None:
    """(a, b) where the equation ends max(a, b) + log1p(exp(-|a - b|)), that is `jnp.logaddexp`."""
    if name != "add":
        return None
    most, value = operands
    for step in ("log1p", "exp", "neg", "abs"):
        made = builder.history.get(value.id) if isinstance(value, Ref) else None
        if made is None or made.name != step:
            return None
        (value,) = made.operands
    apart = builder.history.get(value.id) if isinstance(value, Ref) else None
    larger = builder.history.get(most.id) if isinstance(most, Ref) else None
    if apart is None or larger is None or (apart.name, larger.name) != ("sub", "max"):
        return None
    same = all(a is b or a == b for a, b in zip(apart.operands, larger.operands, strict=True))
    return (
        list(apart.operands) if same and all(isinstance(o, Ref) for o in apart.operands) else None
    )


def _activations(builder: Builder, name: str, operands: list[Any]) -> Iterator[tuple[str, Formula]]:
    """Kinds of nodes that an equation may end, with their formulas."""
    for kind, formulas in {"mul": _PRODUCTS, "div": _QUOTIENTS}.get(name, {}).items():
        yield from ((kind, formula) for formula in formulas)
    if name in ("select_n", "add"):
        a = _factor(builder, operands[1], "expm1")
        if a is not None and name == "select_n":
            yield f"elu {a!r}", _with(jax.nn.elu, alpha=a)
        elif a:
            yield f"celu {a!r}", _with(jax.nn.celu, alpha=a)


def _normalizations(
    builder: Builder, name: str, operands: list[Any]
) -> Iterator[tuple[Formula, Formula, Ref]]:
    """Functions of many numbers that an equation may end: spelled out, better, and of what."""
    end = operands[0 if name == "add" else 1] if name in ("add", "div", "sub") else None
    found = _exponentials(builder, end)
    if found is None:
        return
    axis, source = found
    if name == "div":
        for formula in (jax.nn.softmax, _bare_softmax):
            yield _with(formula, axis=axis), _with(softmax, axis=axis), source
    elif name == "sub":
        yield _with(jax.nn.log_softmax, axis=axis), _with(log_softmax, axis=axis), source
    else:
        for keepdims in (False, True):
            yield (
                _with(jax.nn.logsumexp, axis=axis, keepdims=keepdims),
                _with(logsumexp, axis=axis, keepdims=keepdims),
                source,
            )


def _bare_softmax(z: Array, axis: tuple[int, ...]) -> Array:
    e = jnp.exp(z)
    return e / jnp.sum(e, axis=axis, keepdims=True)


@functools.cache
def _with(h: Callable[..., Array], **settings: Any) -> Formula:
    """The same function for the same settings, by which patterns are kept."""
    return functools.partial(h, **settings)


def _factor(builder: Builder, value: Any, name: str) -> float | None:
    """a where `value` is a * name(...), a one known number."""
    made = builder.history.get(value.id) if isinstance(value, Ref) else None
    if made is None or made.name != "mul":
        return None
    for factor, other in (made.operands, made.operands[::-1]):
        inner = builder.history.get(other.id) if isinstance(other, Ref) else None
        if inner is None or inner.name != name or not _known(factor):
            continue
        numbers = np.unique(np.asarray(factor))
        if len(numbers) == 1:
            return float(numbers[0])
    return None


def _exponentials(builder: Builder, value: Any) -> tuple[tuple[int, ...], Ref] | None:
    """The axes of the sum of exponentials that `value` is made of, and these."""
    for _ in range(_NEAR):
        made = builder.history.get(value.id) if isinstance(value, Ref) else None
        if made is None:
            return None
        (value, *_) = (o for o in made.operands if isinstance(o, Ref))
        if made.name == "reduce_sum":
            inner = builder.history.get(value.id)
            axes = dict(made.settings)["axes"]
            return (
                (tuple(int(t) for t in axes.strip("()").split(",") if t.strip()), value)
                if inner is not None and inner.name == "exp"
                else None
            )
        if made.name not in ("abs", "broadcast_in_dim", "log", "reshape"):
            return None
    return None


def _match(
    builder: Builder, name: str, operands: list[Any], formula: Formula, like: Ref
) -> Ref | None:
    """z, a value of the shape of `like`, where the equation is the last one of formula(z)."""
    x64 = jax.dtypes.canonicalize_dtype(np.float64) == np.float64
    known, root, last = _pattern(formula, like.shape, np.dtype(like.dtype), x64)
    bound: dict[int, Ref] = {}

    def alike(p: Any, t: Any) -> bool:
        if not isinstance(p, Ref) or not isinstance(t, Ref):
            return not isinstance(p, Ref) and not isinstance(t, Ref) and _equal(p, t)
        if p.id in bound or p == root:
            return bound.setdefault(p.id, t) == t and p[1:] == t[1:]
        theirs, ours = known.history.get(p.id), builder.history.get(t.id)
        if theirs is None or ours is None or theirs[:2] != ours[:2]:
            return False
        return each(theirs.name, theirs.operands, ours.operands)

    def each(name: str, p: Sequence[Any], t: Sequence[Any]) -> bool:
        orders = [list(t)] + ([list(t)[::-1]] if name in _COMMUTE else [])
        for order in orders:
            kept = dict(bound)
            if len(p) == len(order) and all(map(alike, p, order)):
                return True
            bound.clear()
            bound.update(kept)
        return False

    return bound.get(root.id) if last.name == name and each(name, last.operands, operands) else None


@functools.lru_cache(maxsize=1024)
def _pattern(
    formula: Formula, shape: tuple[int, ...], dtype: Any, x64: bool
) -> tuple[Builder, Ref, Made]:
    """How tracing sees a formula: the record, the value it starts from and its last equation."""
    del x64  # constants depend on it
    spec = jax.ShapeDtypeStruct(shape, dtype)
    closed = jax.make_jaxpr(formula)(spec)
    builder = Builder(HANDLERS)
    root = builder.fresh(spec)
    (end,) = builder.inline(closed.jaxpr, closed.consts, [root])
    made = builder.history[end.id]
    while made.name == "copy":
        made = builder.history[made.operands[0].id]
    return builder, root, made


def _known(value: Any) -> bool:
    return not isinstance(value, Ref) and checks.is_concrete(value)


def _equal(p: Any, t: Any) -> bool:
    """Whether two constants are equal up to rounding, one perhaps spread over the other's shape."""
    if not _known(p) or not _known(t):
        return False
    left, right = np.asarray(p), np.asarray(t)
    if left.dtype == bool or right.dtype == bool or not np.issubdtype(left.dtype, np.floating):
        return bool(np.all(left == right))
    eps = 2 * float(np.finfo(left.dtype).eps)
    with np.errstate(invalid="ignore"):
        return bool(np.all((left == right) | (np.abs(left - right) <= eps * np.abs(left))))
