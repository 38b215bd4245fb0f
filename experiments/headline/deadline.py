"""The time that a command has: pieces of work begin only if they can be expected to end in it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from jaxrobust import checks


class Deadline:
    """Keeps a command within `minutes` from its construction; None is no limit."""

    def __init__(self, minutes: float | None) -> None:
        if minutes is not None and minutes != float("inf"):
            checks.positive("minutes", minutes)
        self._end = float("inf") if minutes is None else time.monotonic() + 60 * minutes
        self._longest: dict[str, float] = {}

    def allows(self, kind: str) -> bool:
        """Whether a piece of work would end in time if it took as long as the longest of its kind.

        The first of a kind may begin while any time is left.
        """
        return time.monotonic() + self._longest.get(kind, 0.0) < self._end

    @contextmanager
    def spent(self, kind: str) -> Iterator[None]:
        """Around a piece of work: how long it takes tells of the next of its kind."""
        began = time.monotonic()
        yield
        taken = time.monotonic() - began
        self._longest[kind] = max(self._longest.get(kind, 0.0), taken)

    def stop(self, history: Sequence[Mapping[str, Any]]) -> bool:
        """A `training.Stop`: whether another epoch as long as the last would end too late."""
        return time.monotonic() + history[-1]["seconds"] >= self._end
