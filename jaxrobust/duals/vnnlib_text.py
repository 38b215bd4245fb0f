"""The text of VNN-LIB files: expressions in parentheses, read into one formula."""

from __future__ import annotations

import gzip
import os
import re
import zlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from jaxrobust.duals.vnnlib_formula import Atom, Formula, Junction

TOKEN = re.compile(r"[()]|[^\s()]+")
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d{1,3})?")
VARIABLE = re.compile(r"([XY])_(\d+)")
DEEPEST = 200
"""How far expressions may be nested."""
NO_MATTER = {"set-logic", "set-info", "set-option", "check-sat", "get-model", "exit"}
"""Commands that say nothing about the problem."""

Linear = dict[tuple[str, int], Fraction]
"""Factors by variable; the constant's is ("", 0)."""


class Word(NamedTuple):
    """A number, a name or an operator."""

    text: str
    line: int


class Group(NamedTuple):
    """What stands between parentheses."""

    parts: list[Any]
    line: int


def read_formula(path: str | os.PathLike[str]) -> tuple[int, int, Formula]:
    """The numbers of inputs and outputs of a VNN-LIB file, and all of its assertions.

    Raises:
      FileNotFoundError: a missing file.
      ValueError: see `read_vnnlib`.
    """
    text, declared, held = _text(Path(path)), {}, []
    try:
        for command in _groups(text):
            name = command.parts[0] if command.parts else command
            kind = name.text if isinstance(name, Word) else None
            if kind == "declare-const":
                _declare(command, declared)
            elif kind == "assert":
                held.append(_formula(_one(command), declared))
            elif kind not in NO_MATTER:
                raise _Mistake(
                    f"{kind or '('!r} is no command of VNN-LIB 1.0 that is known", command.line
                )
        counts = _counts(declared)
    except _Mistake as error:
        raise ValueError(f"{path}, line {error.line}: {error}") from None
    if not held:
        raise ValueError(f"{path} holds no assertion; it describes no problem")
    return *counts, Junction("and", tuple(held), 1)


class _Mistake(Exception):  # noqa: N818
    """What is wrong in a line."""

    def __init__(self, told: str, line: int) -> None:
        super().__init__(told)
        self.line = line


def _text(path: Path) -> str:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    data = path.read_bytes()
    try:
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as text ({error})") from error


def _groups(text: str) -> Iterator[Group]:
    """The commands, each a tree of words."""
    opened: list[Group] = []
    for number, line in enumerate(text.splitlines(), 1):
        for token in TOKEN.findall(line.partition(";")[0]):
            if token == "(":
                if len(opened) >= DEEPEST:
                    raise _Mistake(f"expressions are nested more than {DEEPEST} times", number)
                opened.append(Group([], number))
            elif not opened:
                raise _Mistake(f"{token!r} stands outside of a command", number)
            elif token == ")":
                done = opened.pop()
                if opened:
                    opened[-1].parts.append(done)
                else:
                    yield done
            else:
                opened[-1].parts.append(Word(token, number))
    if opened:
        raise _Mistake("the parenthesis that opens there is never closed", opened[0].line)


def _one(command: Group) -> Any:
    if len(command.parts) != 2:
        raise _Mistake(f"assert takes one formula, got {len(command.parts) - 1}", command.line)
    return command.parts[1]


def _declare(command: Group, declared: dict[tuple[str, int], int]) -> None:
    words = [part.text if isinstance(part, Word) else "(...)" for part in command.parts]
    match = VARIABLE.fullmatch(words[1]) if len(words) == 3 else None
    if match is None or words[2] != "Real":
        raise _Mistake(
            "declarations are (declare-const X_0 Real) for inputs X and outputs Y, got "
            f"({' '.join(words)})",
            command.line,
        )
    key = (match[1], int(match[2]))
    if key in declared:
        raise _Mistake(f"{words[1]} is declared twice", command.line)
    declared[key] = command.line


def _counts(declared: dict[tuple[str, int], int]) -> tuple[int, int]:
    """How many inputs and outputs there are."""
    counts = []
    for kind in ("X", "Y"):
        lines = {index: line for (k, index), line in declared.items() if k == kind}
        for place, index in enumerate(sorted(lines)):
            if place != index:
                raise _Mistake(
                    f"{kind}_{index} is declared, but {kind}_{place} is not", lines[index]
                )
        if not lines:
            raise _Mistake(f"no {kind}_0 is declared", 1)
        counts.append(len(lines))
    return counts[0], counts[1]


def _formula(held: Word | Group, declared: dict[tuple[str, int], int]) -> Formula:
    if isinstance(held, Word) or not held.parts or not isinstance(held.parts[0], Word):
        shown = held.text if isinstance(held, Word) else "("
        raise _Mistake(f"a formula is (and ...), (or ...), (<= a b) or (>= a b), got {shown!r}",
                       held.line)  # fmt: skip
    operator, *parts = held.parts
    if operator.text in ("and", "or"):
        return Junction(operator.text, tuple(_formula(p, declared) for p in parts), held.line)
    if operator.text not in ("<=", ">="):
        raise _Mistake(
            f"{operator.text!r} joins no formulas; VNN-LIB 1.0 has and, or, <= and >=", held.line
        )
    if len(parts) != 2:
        raise _Mistake(f"{operator.text} compares two values, got {len(parts)}", held.line)
    left, right = (_linear(part, declared) for part in parts)
    if operator.text == ">=":
        left, right = right, left
    return _atom(_added(left, right, Fraction(-1)), held.line)


def _atom(linear: Linear, line: int) -> Atom:
    constant = linear.pop(("", 0), Fraction(0))
    factors = {key: factor for key, factor in linear.items() if factor}
    kinds = {kind for kind, _ in factors}
    if len(kinds) > 1:
        raise _Mistake("a comparison between inputs and outputs is no box and no property", line)
    if kinds == {"X"} and len(factors) > 1:
        raise _Mistake("a comparison of several inputs is no box; each has bounds of its own", line)
    ordered = tuple((index, factor) for (_, index), factor in sorted(factors.items()))
    return Atom(kinds.pop() if kinds else "", ordered, constant, line)  # pyright: ignore[reportArgumentType]


def _linear(held: Word | Group, declared: dict[tuple[str, int], int]) -> Linear:
    """An expression of +, - and * as factors of variables."""
    if isinstance(held, Word):
        return _value(held, declared)
    operator = held.parts[0] if held.parts else None
    if not isinstance(operator, Word) or operator.text not in ("+", "-", "*") or (
        len(held.parts) < 2):  # fmt: skip
        shown = operator.text if isinstance(operator, Word) else "("
        raise _Mistake(f"expressions are made of +, - and *, got {shown!r}", held.line)
    first, *rest = (_linear(part, declared) for part in held.parts[1:])
    if operator.text == "-" and not rest:
        return _added({}, first, Fraction(-1))
    for other in rest:
        if operator.text == "*":
            constants = [v for v in (first, other) if not any(kind for kind, _ in v)]
            if not constants:
                raise _Mistake("a product of two variables is not linear", held.line)
            factor = constants[0].get(("", 0), Fraction(0))
            first = _added({}, other if constants[0] is first else first, factor)
        else:
            first = _added(first, other, Fraction(1 if operator.text == "+" else -1))
    return first


def _value(word: Word, declared: dict[tuple[str, int], int]) -> Linear:
    if NUMBER.fullmatch(word.text):
        return {("", 0): Fraction(word.text.rstrip(".") if word.text[-1] == "." else word.text)}
    match = VARIABLE.fullmatch(word.text)
    if match is None:
        raise _Mistake(f"{word.text!r} is neither a number nor a variable X_i or Y_j", word.line)
    key = (match[1], int(match[2]))
    if key not in declared:
        raise _Mistake(f"{word.text} is not declared", word.line)
    return {key: Fraction(1)}


def _added(a: Linear, b: Linear, factor: Fraction) -> Linear:
    """a + factor * b."""
    total = dict(a)
    for key, value in b.items():
        total[key] = total.get(key, Fraction(0)) + factor * value
    return total
