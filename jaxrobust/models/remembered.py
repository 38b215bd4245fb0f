"""One `apply` for each network, so that wrapping it anew for every call compiles nothing anew."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from jaxrobust.types import Array, Key, Variables

NETWORKS = 32
"""As many as an evaluation keeps programs of."""

Given = ParamSpec("Given")
Made = TypeVar("Made")


@dataclasses.dataclass(frozen=True, eq=False)
class OwnValues:
    """The `init` of a model whose network holds its numbers already: they come back as given."""

    variables: Variables

    def __call__(self, key: Key, x: Array) -> Variables:
        del key, x
        return self.variables


@dataclasses.dataclass(frozen=True)
class _Identical:
    """A thing without a hash, which equals itself alone."""

    thing: Any

    def __hash__(self) -> int:
        return id(self.thing)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identical) and self.thing is other.thing


def remembered(make: Callable[Given, Made]) -> Callable[Given, Made]:
    """`make`, which returns what it made before for equal arguments.

    JAX and `evaluation.compiled` find a program again through the same function object only. What
    has no hash counts by its identity, and is held so that no other takes its place.
    """

    @functools.lru_cache(maxsize=NETWORKS)
    def of_parts(*parts: Any) -> Made:
        shown = [part.thing if isinstance(part, _Identical) else part for part in parts]
        return make(*shown)  # pyright: ignore[reportCallIssue]

    @functools.wraps(make)
    def call(*args: Given.args, **kwargs: Given.kwargs) -> Made:
        return of_parts(*map(_hashable, (*args, *kwargs.values())))

    return call


def _hashable(part: Any) -> Any:
    try:
        hash(part)
    except TypeError:
        return _Identical(part)
    return part
