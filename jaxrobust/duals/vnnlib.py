"""VNN-LIB files: what the verification competition asks, as boxes of inputs and properties."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple, cast

import numpy as np

from jaxrobust.duals.specification import Property
from jaxrobust.duals.vnnlib_formula import Atom, disjuncts
from jaxrobust.duals.vnnlib_text import read_formula
from jaxrobust.threats import Linf

Row = tuple[tuple[Fraction, ...], Fraction]
"""(A, b) of a violation A v + b <= 0."""


class VnnlibProblem(NamedTuple):
    """One box of inputs, and what is to hold of the outputs on it."""

    lower: np.ndarray
    upper: np.ndarray
    """The box, `[n]`, in the order of the inputs X_0, X_1, ...: every float is rounded outwards."""
    goal: Property
    """The outputs that are no violation. Numbers are rounded to where more are violations."""
    clauses: tuple[tuple[Row, ...], ...]
    """The violations as the file writes them, a disjunction of conjunctions of exact rows."""
    box: tuple[tuple[Fraction, Fraction], ...]
    """The exact ends of each input."""

    def inside(self, x: np.ndarray) -> np.ndarray:
        """The point of the exact box next to `x` `[n]`, in float64."""

        def clipped(value: float, ends: tuple[Fraction, Fraction]) -> float:
            if Fraction(value) < ends[0]:
                return float(rounded(ends[0], np.float64, up=True))
            if Fraction(value) > ends[1]:
                return float(rounded(ends[1], np.float64, up=False))
            return value

        return np.asarray([clipped(float(v), e) for v, e in zip(x, self.box, strict=True)])

    def violated(self, outputs: Sequence[float] | np.ndarray) -> bool:
        """Whether outputs `[K]` are a violation, in exact arithmetic; NaN and infinities are."""
        if not np.isfinite(outputs).all():
            return True
        values = [Fraction(float(v)) for v in np.ravel(outputs)]

        def holds(row: Row) -> bool:
            return sum((a * v for a, v in zip(row[0], values, strict=True)), row[1]) <= 0

        return any(all(map(holds, rows)) for rows in self.clauses)


def read_vnnlib(
    path: str | os.PathLike[str], *, dtype: Any = np.float32
) -> tuple[VnnlibProblem, ...]:
    """Reads a VNN-LIB 1.0 file, .vnnlib or .vnnlib.gz.

    Its assertions describe violations: inputs X_0, ... and outputs Y_0, ... for which all of them
    are true. What is read are the boxes of inputs that they name, each with the `Property` that its
    points are no violations. A file is satisfiable where one of its problems is; the network is
    verified where all of them are.

    `declare-const`, `assert`, `and` and `or` in any nesting, `<=` and `>=` between expressions of
    `+`, `-` and `*` with constants, linear in the outputs, and in one input each. Decimal numbers
    are exact fractions until the end. A box is then rounded outwards to `dtype`, and so is the set
    of violations, so that what is verified holds of the file's own numbers.

    Args:
      path: the file.
      dtype: of the network, float32 or float64.

    Returns:
      The problems, one for each box in the order of the file; `VnnlibProblem.violated` judges
      outputs by the exact numbers. None where no input satisfies the assertions.

    Raises:
      FileNotFoundError: a missing file.
      ValueError: what is not VNN-LIB 1.0; inputs without bounds; an expression that is neither
        linear in the outputs nor in one input; a coefficient that `dtype` does not hold. The
        message names the file and the line.

    Example:
      >>> import pathlib, tempfile
      >>> from jaxrobust import duals
      >>> text = '''
      ... (declare-const X_0 Real) (declare-const Y_0 Real) (declare-const Y_1 Real)
      ... (assert (>= X_0 -0.5)) (assert (<= X_0 0.5))
      ... (assert (<= Y_0 Y_1))
      ... '''
      >>> path = pathlib.Path(tempfile.mkdtemp(), "small.vnnlib")
      >>> _ = path.write_text(text)
      >>> (problem,) = duals.read_vnnlib(path)
      >>> problem.lower, problem.goal.A
      (array([-0.5], dtype=float32), array([[ 1., -1.]], dtype=float32))
    """
    dtype = np.dtype(dtype)
    if dtype not in (np.float32, np.float64):
        raise ValueError(f"dtype must be float32 or float64, got {dtype}")
    inputs, outputs, formula = read_formula(path)
    found: dict[tuple[tuple[Fraction, Fraction], ...], list[list[Atom]]] = {}
    boxes: dict[tuple[int, ...], tuple[tuple[Fraction, Fraction], ...] | None] = {}
    for atoms in disjuncts(path, formula):
        bounds = [atom for atom in atoms if atom.kind == "X"]
        # most share the very same ones
        same = tuple(map(id, bounds))
        if same not in boxes:
            boxes[same] = _box(path, inputs, bounds)
        box = boxes[same]
        if box is not None:
            found.setdefault(box, []).append([atom for atom in atoms if atom.kind == "Y"])
    problems = []
    for box, clauses in found.items():
        lower = np.asarray([rounded(low, dtype, up=False) for low, _ in box], dtype)
        upper = np.asarray([rounded(high, dtype, up=True) for _, high in box], dtype)
        if not (np.isfinite(lower).all() and np.isfinite(upper).all()):
            raise ValueError(f"{path}: bounds of inputs that {dtype} does not hold")
        goal, exact = _property(path, clauses, outputs, dtype)
        problems.append(VnnlibProblem(lower, upper, goal, exact, box))
    return tuple(problems)


def box_threat(
    lower: Sequence[float] | np.ndarray, upper: Sequence[float] | np.ndarray
) -> tuple[np.ndarray, Linf]:
    """A point and a set around it that is just the box [lower, upper].

    Args:
      lower, upper: the ends, of one shape and float dtype, finite.

    Returns:
      (x, threat): the middle of the box, of its shape and dtype; and a `Linf` with a radius for
      each coordinate, large enough for the box, which is its pixel box.

    Raises:
      ValueError: ends of different shapes, that are not finite, or with lower above upper.

    Example:
      >>> import numpy as np
      >>> from jaxrobust import duals
      >>> x, threat = duals.box_threat(np.float32([0, -1]), np.float32([1, -1]))
      >>> x, threat.radius
      (array([ 0.5, -1. ], dtype=float32), array([0.50000006, 0.        ], dtype=float32))
    """
    low, high = np.asarray(lower), np.asarray(upper)
    dtype = np.result_type(low, high, np.float32)
    low, high = low.astype(dtype), high.astype(dtype)
    if low.shape != high.shape or not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise ValueError(
            f"a box has two finite ends of one shape, got shapes {low.shape} and {high.shape}"
        )
    # halves first: their sum is in the range of the type
    x, tiny = low / 2 + high / 2, np.finfo(dtype).tiny
    # processors may take what is below the normal numbers for 0
    x = np.clip(np.where(np.abs(x) < tiny, 0, x), low, high)
    far = np.maximum(x - low, high - x)
    above = np.maximum(np.nextafter(far, np.asarray(np.inf, dtype)), tiny)
    radius = np.where(far > 0, above, far)
    # NumPy's, whatever types JAX is set to
    return x, Linf(*cast(Any, (radius, low, high)))


def rounded(value: Fraction, dtype: Any, *, up: bool) -> np.ndarray:
    """The float next to an exact number, at or above it where `up`, else at or below it.

    0 or a normal number: processors may take what is smaller for 0.
    """
    dtype = np.dtype(dtype)
    try:
        with np.errstate(over="ignore"):
            near = np.asarray(float(value)).astype(dtype)
    except OverflowError:
        return np.asarray(np.inf if value > 0 else -np.inf, dtype)
    exact = Fraction(float(near)) if np.isfinite(near) else None
    if exact is not None and (exact < value if up else exact > value):
        near = np.nextafter(near, np.asarray(np.inf if up else -np.inf, dtype))
    tiny = np.finfo(dtype).tiny
    if 0 < abs(near) < tiny:
        near = np.asarray((tiny if up else -tiny) if (near > 0) == up else 0, dtype)
    return near


def _box(
    path: str | os.PathLike[str], inputs: int, bounds: Sequence[Atom]
) -> tuple[tuple[Fraction, Fraction], ...] | None:
    """The ends of the inputs that bounds describe; None where there are none between them."""
    lower: list[Fraction | None] = [None] * inputs
    upper: list[Fraction | None] = [None] * inputs
    for atom in bounds:
        ((index, factor),) = atom.factors
        end = -atom.constant / factor
        held = upper if factor > 0 else lower
        known = held[index]
        nearer = min if factor > 0 else max
        held[index] = end if known is None else nearer(known, end)
    ends = []
    for index, (a, b) in enumerate(zip(lower, upper, strict=True)):
        if a is None or b is None:
            side = "lower" if a is None else "upper"
            raise ValueError(
                f"{path}: the input X_{index} has no {side} bound in a part of the assertions; "
                "every input needs both"
            )
        ends.append((a, b))
    return tuple(ends) if all(low <= high for low, high in ends) else None


def _property(
    path: str | os.PathLike[str], clauses: Sequence[Sequence[Atom]], outputs: int, dtype: Any
) -> tuple[Property, tuple[tuple[Row, ...], ...]]:
    """The property whose violations are `clauses`, and their exact rows."""
    exact = tuple(tuple(_row(atom, outputs, dtype) for atom in rows) for rows in clauses)
    A, b, clause = [], [], []
    for index, (rows, written) in enumerate(zip(clauses, exact, strict=True)):
        if not rows:  # every output is a violation
            A, b, clause = [*A, np.zeros(outputs)], [*b, -1.0], [*clause, index]
        for atom, (row, constant) in zip(rows, written, strict=True):
            factors = np.asarray([float(a) for a in row], dtype)
            if any(Fraction(float(f)) != a for f, a in zip(factors, row, strict=True)):
                raise ValueError(
                    f"{path}, line {atom.line}: {dtype} does not hold a coefficient there exactly; "
                    "read the file with another dtype"
                )
            A, clause = [*A, factors], [*clause, index]
            b.append(rounded(constant, dtype, up=False))
    arrays = np.asarray(A, dtype), np.asarray(b, dtype), np.asarray(clause, np.int32)
    return Property(*cast(Any, arrays)), exact


def _row(atom: Atom, outputs: int, dtype: Any) -> Row:
    """The row of a violation, in whole numbers where `dtype` does not hold decimal ones."""
    held = dict(atom.factors)
    row = tuple(held.get(index, Fraction(0)) for index in range(outputs))
    plain = all(Fraction(float(np.asarray(float(a), dtype))) == a for a in row)
    scale = 1 if plain else math.lcm(*(a.denominator for a in row))
    return tuple(scale * a for a in row), scale * atom.constant
