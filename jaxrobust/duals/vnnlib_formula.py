"""Formulas of VNN-LIB: linear comparisons, joined by and and or, in disjunctive normal form."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Sequence
from fractions import Fraction
from typing import Literal, NamedTuple

MOST = 1_000_000
"""Conjunctions that a formula may have."""


class Atom(NamedTuple):
    """sum_i factors_i v_i + constant <= 0, for inputs X or outputs Y."""

    kind: Literal["X", "Y", ""]
    """"" where it is about no variable."""
    factors: tuple[tuple[int, Fraction], ...]
    """Of the variables by index, none of them 0."""
    constant: Fraction
    line: int


class Junction(NamedTuple):
    """Formulas that are to hold all, or one of them."""

    kind: Literal["and", "or"]
    parts: tuple[Formula, ...]
    line: int


Formula = Atom | Junction


def disjuncts(path: str | os.PathLike[str], formula: Formula) -> list[tuple[Atom, ...]]:
    """Conjunctions of atoms about variables, of which one holds just where the formula does.

    Raises:
      ValueError: they are too many.
    """
    if isinstance(formula, Atom):
        if formula.kind:
            return [(formula,)]
        return [()] if formula.constant <= 0 else []
    parts = [disjuncts(path, part) for part in formula.parts]
    joined = formula.kind == "and"
    count = math.prod(map(len, parts)) if joined else sum(map(len, parts))
    if count > MOST:
        raise ValueError(
            f"{path}, line {formula.line}: a disjunction of {count} conjunctions, more than {MOST}"
        )
    if not joined:
        return list(itertools.chain.from_iterable(parts))
    # most are single comparisons
    alone = tuple(itertools.chain.from_iterable(p[0] for p in parts if len(p) == 1))
    rest: list[Sequence[tuple[Atom, ...]]] = [p for p in parts if len(p) != 1]
    return [alone + tuple(itertools.chain.from_iterable(v)) for v in itertools.product(*rest)]
