"""Loops and branches whose course the input does not decide, written out."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core

from jaxrobust import checks
from jaxrobust.duals.builder import Builder
from jaxrobust.duals.graph import Ref
from jaxrobust.duals.refusals import UnsupportedOperation, inside

_LONGEST = 1 << 12
"""Turns of a loop that are written out; more would take minutes to compile."""


def scan(builder: Builder, equation: core.JaxprEqn, operands: list[Any]) -> list[Any]:
    """`lax.scan`, and the `fori_loop`s that become one, turn by turn."""
    params = equation.params
    consts, carries, length = params["num_consts"], params["num_carry"], params["length"]
    body = params["jaxpr"]
    _require_short(builder, "scan", length)
    carry = operands[consts : consts + carries]
    columns = operands[consts + carries :]
    made: list[list[Any]] = []
    turns = range(length)
    for i in reversed(turns) if params["reverse"] else turns:
        row = [_item(builder, v, i) for v in columns]
        results = builder.inline(body.jaxpr, body.consts, [*operands[:consts], *carry, *row])
        carry = results[:carries]
        made.append(results[carries:])
    ordered = made[::-1] if params["reverse"] else made
    stacks = [_stacked(builder, list(column)) for column in zip(*ordered, strict=True)]
    if not made:
        specs = [v.aval for v in equation.outvars[carries:]]
        stacks = [np.zeros(s.shape, s.dtype) for s in specs]  # pyright: ignore[reportAttributeAccessIssue]
    return [*carry, *stacks]


def while_loop(builder: Builder, equation: core.JaxprEqn, operands: list[Any]) -> list[Any]:
    """`lax.while_loop` as long as its condition depends on constants."""
    params = equation.params
    tests, bodies = params["cond_nconsts"], params["body_nconsts"]
    test, body = params["cond_jaxpr"], params["body_jaxpr"]
    asked, held = operands[:tests], operands[tests : tests + bodies]
    carry = operands[tests + bodies :]
    for turn in range(_LONGEST + 1):
        (goes_on,) = builder.inline(test.jaxpr, test.consts, [*asked, *carry])
        if not _known(goes_on):
            raise UnsupportedOperation(
                f"'while'{inside(builder.caller)} runs until a condition that depends on the input "
                "or on traced values; give the loop a constant number of turns"
            )
        if not np.asarray(goes_on):
            return carry
        _require_short(builder, "while", turn + 1)
        carry = builder.inline(body.jaxpr, body.consts, [*held, *carry])
    raise AssertionError("the loop above returns or raises")


def cond(builder: Builder, equation: core.JaxprEqn, operands: list[Any]) -> list[Any]:
    """`lax.cond` and `lax.switch` on a constant: the branch taken."""
    index, *rest = operands
    if not _known(index):
        raise UnsupportedOperation(
            f"'cond'{inside(builder.caller)} chooses a branch by values that depend on the input "
            "or are traced; choose by a constant, or write continuous pieces as max, min or where"
        )
    branches = equation.params["branches"]
    taken = branches[int(np.clip(int(np.asarray(index)), 0, len(branches) - 1))]
    return builder.inline(taken.jaxpr, taken.consts, rest)


def _known(value: Any) -> bool:
    return not isinstance(value, Ref) and checks.is_concrete(value)


def _item(builder: Builder, value: Any, i: int) -> Any:
    if not isinstance(value, Ref):
        return value[i]
    return builder.decompose(lambda v: lax.index_in_dim(v, i, 0, keepdims=False), [value])[0]


def _stacked(builder: Builder, values: list[Any]) -> Any:
    if not any(isinstance(v, Ref) for v in values):
        return jnp.stack(values)
    return builder.decompose(lambda *v: jnp.stack(v), values)[0]


def _require_short(builder: Builder, name: str, turns: int) -> None:
    if turns > _LONGEST:
        raise UnsupportedOperation(
            f"{name!r}{inside(builder.caller)} takes more than {_LONGEST} turns, all of which "
            "bounds would write out"
        )
