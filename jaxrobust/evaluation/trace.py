"""Reads a model's traced forward pass for operations that stand between input and output."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
from jax.extend import core

from jaxrobust.evaluation import programs
from jaxrobust.evaluation.passes import Job
from jaxrobust.types import Array, Key, PyTree

_RANDOM = {"random_bits", "random_gamma", "threefry2x32", "rng_bit_generator", "rng_uniform"}
_FLAT = {"round", "floor", "ceil", "sign", "rem", "argmax", "argmin", "nextafter"}
_CUSTOM = {"custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"}
# Functions of jax.nn, jax.numpy and jax.scipy, whose own rules are exact.
_EXACT = {"relu", "relu6", "_softmax", "log1mexp", "logaddexp", "logaddexp2", "logit", "log_ndtr"}
_EXACT |= {"xlogy", "xlog1py", "_xlogx", "_sinc_maclaurin"}
_SHIFTS = {"max", "select_n", "broadcast_in_dim", "reshape", "squeeze", "convert_element_type"}


def example_shape(job: Job) -> jax.ShapeDtypeStruct:
    """One input of the job as the model sees it."""
    raw = jax.ShapeDtypeStruct(job.x.shape[1:], job.x.dtype)
    return jax.eval_shape(programs.as_float, raw)


def suspicious_operations(job: Job) -> dict[str, set[str]]:
    """Names of the suspicious operations of the forward pass, by their kind in `_MEANING`."""

    def forward(variables: PyTree, key: Key, x: Array) -> Array:
        return job.model.logits_fn(variables)(x, key=key)

    traced = jax.make_jaxpr(forward)(job.variables, jax.random.key(0), example_shape(job)).jaxpr
    found: dict[str, set[str]] = {}
    for kind, name in _walk(traced, [False] * (len(traced.invars) - 1) + [True]):
        found.setdefault(kind, set()).add(name)
    return found


def _walk(jaxpr: core.Jaxpr, depends: Sequence[bool]) -> Iterator[tuple[str, str]]:
    """(kind, name) of what feeds the output; `depends` says which inputs depend on the example."""
    reached = {v for v, d in zip(jaxpr.invars, depends, strict=True) if d}
    made: dict[core.Var, core.JaxprEqn] = {}
    for eqn in jaxpr.eqns:
        made.update(dict.fromkeys(eqn.outvars, eqn))
        if not reached.isdisjoint(_variables(eqn)):
            reached.update(eqn.outvars)
    live = {v for v in jaxpr.outvars if isinstance(v, core.Var)}
    for eqn in reversed(jaxpr.eqns):
        if live.isdisjoint(eqn.outvars):
            continue
        live.update(_variables(eqn))
        touched = [isinstance(v, core.Var) and v in reached for v in eqn.invars]
        yield from _kinds(eqn, touched, made)
        for inner in _inner(eqn):
            # The operands of calls and branches come last; what a loop carries may mix with all.
            mixed = eqn.primitive.name in ("scan", "while") or len(inner.invars) > len(touched)
            last = touched[len(touched) - len(inner.invars) :]
            yield from _walk(inner, [any(touched)] * len(inner.invars) if mixed else last)


def _kinds(
    eqn: core.JaxprEqn, touched: Sequence[bool], made: Mapping[core.Var, core.JaxprEqn]
) -> Iterator[tuple[str, str]]:
    name = eqn.primitive.name
    if name in _RANDOM:
        yield "random numbers", name
    elif "callback" in name:
        yield "callback", name
    elif not any(touched):
        return
    elif name in _FLAT:
        yield "flat operations", name
    elif name == "select_n" and touched[0] and not any(touched[1:]):
        yield "flat operations", "a choice between constants"
    elif name == "convert_element_type":
        before, after = eqn.invars[0].aval.dtype, eqn.outvars[0].aval.dtype
        if jnp.issubdtype(before, jnp.inexact) != jnp.issubdtype(after, jnp.inexact):
            yield "flat operations", f"{before} to {after}"
    elif name == "while":
        yield "while loop", name
    elif name == "stop_gradient" and not _is_maximum(eqn.invars[0], made):
        yield "stopped gradient", name
    elif name in _CUSTOM and (called := _called(eqn)) not in _EXACT:
        yield "custom derivative", called


def _called(eqn: core.JaxprEqn) -> str:
    """The name of the function that has a derivative rule of its own."""
    body = next(_inner(eqn), None)
    return eqn.primitive.name if body is None else body.debug_info.func_src_info.split()[0]


def _is_maximum(variable: object, made: Mapping[core.Var, core.JaxprEqn]) -> bool:
    """Whether it is a maximum up to its shape, by which a stable softmax shifts its input."""
    eqn = made.get(variable) if isinstance(variable, core.Var) else None
    if eqn is None:
        return False
    passed_on = eqn.primitive.name in _SHIFTS and any(_is_maximum(v, made) for v in eqn.invars)
    return eqn.primitive.name == "reduce_max" or passed_on


def _variables(eqn: core.JaxprEqn) -> list[core.Var]:
    return [v for v in eqn.invars if isinstance(v, core.Var)]


def _inner(eqn: core.JaxprEqn) -> Iterator[core.Jaxpr]:
    for value in eqn.params.values():
        for part in value if isinstance(value, tuple) else (value,):
            part = part.jaxpr if isinstance(part, core.ClosedJaxpr) else part
            if isinstance(part, core.Jaxpr):
                yield part
