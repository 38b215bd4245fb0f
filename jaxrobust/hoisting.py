"""Work of a function that does not depend on its argument, done once in place of at every call.

XLA leaves in a loop what belongs before it: the casts of a network's weights, the scales of its
normalizations. Attacks call the network in loops.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend import core

from jaxrobust.types import Array, LogitsFn, PyTree

_CALLS = ("jit", "pjit")
"""Calls that are entered where they use more than scalars; the others stay in one piece."""


class _Operation(NamedTuple):
    """One equation of a jaxpr by itself."""

    run: Callable[..., list[Any]]
    """Of its operands, without literals."""
    results: int
    inflates: bool
    """Whether its result holds more bytes than its operands: cheaper made anew than kept."""


class _Known(NamedTuple):
    """A value that does not depend on the argument, and what inflated it, if anything did."""

    value: Any
    origin: tuple[_Operation, list[_Operand]] | None = None


class _Later(NamedTuple):
    """A value of each call: its number among the call's values."""

    slot: int


_Operand = _Known | _Later


class _Plan:
    """What is known now, and the operations left for each call."""

    def __init__(self) -> None:
        self.steps: list[tuple[_Operation, list[_Operand]]] = []
        self.slots = 1  # the argument's

    def walk(
        self, jaxpr: core.Jaxpr, consts: Sequence[Any], operands: Sequence[_Operand]
    ) -> list[_Operand]:
        """Does or plans every operation of a jaxpr; returns its results."""
        held: dict[Any, _Operand] = dict(zip(jaxpr.invars, operands, strict=True))
        held |= zip(jaxpr.constvars, map(_Known, consts), strict=True)

        def read(atom: Any) -> _Operand:
            return _Known(atom.val) if isinstance(atom, core.Literal) else held[atom]

        for equation in jaxpr.eqns:
            names = [atom for atom in equation.invars if not isinstance(atom, core.Literal)]
            given = [held[name] for name in names]
            known = [operand.value for operand in given if isinstance(operand, _Known)]
            operation = _alone(equation, names, jaxpr)
            if len(known) == len(given) and not equation.effects:
                origin = (operation, given) if operation.inflates else None
                results = [_Known(value, origin) for value in operation.run(*known)]
            elif (inner := _entered(equation, known)) is not None:
                results = self.walk(inner.jaxpr, inner.consts, list(map(read, equation.invars)))
            else:
                results = self.postpone(operation, given)
            held.update(zip(equation.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def postpone(self, operation: _Operation, given: list[_Operand]) -> list[_Later]:
        """Leaves an operation to each call, and with it what only inflated its operands."""
        small = [
            self.postpone(*operand.origin)[0]
            if isinstance(operand, _Known) and operand.origin
            else operand
            for operand in given
        ]
        self.steps.append((operation, small))
        first, self.slots = self.slots, self.slots + operation.results
        return [_Later(slot) for slot in range(first, self.slots)]

    def run(self, z: Array, results: Sequence[_Operand]) -> list[Any]:
        """The results at the argument `z`."""
        values = [z]

        def read(operand: _Operand) -> Any:
            return operand.value if isinstance(operand, _Known) else values[operand.slot]

        for operation, given in self.steps:
            values += operation.run(*map(read, given))
        return [read(operand) for operand in results]


def _entered(equation: core.JaxprEqn, known: list[Any]) -> core.ClosedJaxpr | None:
    """What a call runs, where it uses known values that are more than scalars."""
    if equation.primitive.name not in _CALLS:
        return None
    inner = equation.params["jaxpr"]
    return inner if any(np.ndim(value) for value in (*known, *inner.consts)) else None


def _alone(equation: core.JaxprEqn, names: list[Any], jaxpr: core.Jaxpr) -> _Operation:
    """An equation of `jaxpr` by itself; `names` are its operands without literals."""
    outvars = equation.outvars
    part = jaxpr.replace(constvars=(), invars=names, outvars=outvars, eqns=(equation,))
    run = core.jaxpr_as_fun(core.ClosedJaxpr(part, ()))
    inflates = len(outvars) == 1 and _bytes(outvars) > _bytes(equation.invars)
    return _Operation(run, len(outvars), inflates)


def _bytes(atoms: Sequence[Any]) -> int:
    return sum(atom.aval.size * atom.aval.dtype.itemsize for atom in atoms)


def hoisted(f: LogitsFn, x: Array | jax.ShapeDtypeStruct) -> LogitsFn:
    """`f` with all that does not depend on its argument computed now, before any loop.

    The same values and derivatives, also in what `f` closes over. What is only larger than that
    from which it was made, such as a bias spread over an image, is made at each call, where XLA
    fuses it. Functions with derivatives of their own (`custom_jvp`, `custom_vjp`), loops and
    branches are kept in one piece.

    Args:
      f: a pure function of one array, such as the classifier of one example.
      x: an argument; its shape and type alone are looked at.

    Returns:
      The function for arguments of that shape and type. With others, or with keywords such as the
      `key=` of a randomized classifier, it is `f` itself.
    """
    closed, shapes = jax.make_jaxpr(f, return_shape=True)(x)
    plan = _Plan()
    results = plan.walk(closed.jaxpr, closed.consts, [_Later(0)])
    structure = jax.tree.structure(shapes)

    def run(z: Array, **more: PyTree) -> PyTree:
        if more or z.shape != x.shape or z.dtype != x.dtype:
            return f(z, **more)
        return structure.unflatten(plan.run(z, results))

    return run
