"""Timing several implementations of one job side by side, and the figures that follow."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxrobust import checks

from . import memory


class Entrant(NamedTuple):
    """One implementation of the job, ready to run."""

    name: str
    run: Callable[[], Any]
    """Does the whole job and waits for its end."""
    figures: Callable[[Any], Mapping[str, float | None]]
    """What to report of a result of `run`; not timed."""
    same: bool = True
    """Does the same work as ours. An entrant that does not is shown beside, out of the ratio."""
    note: str = ""
    meter: memory.Meter = memory.host
    """How to tell what memory a call takes."""


class Skipped(NamedTuple):
    """An implementation that does not run, and why."""

    name: str
    reason: str


class Timing(NamedTuple):
    """An entrant's times and figures."""

    entrant: Entrant
    first: float
    """Seconds of the first call, which compiles or warms up."""
    seconds: tuple[float, ...]
    """Seconds of every later call."""
    figures: Mapping[str, float | None]

    @property
    def median(self) -> float:
        """Seconds of a call once warm."""
        return float(np.median(self.seconds))

    @property
    def compile(self) -> float:
        """Seconds the first call took beyond a warm one, at least 0."""
        return max(self.first - self.median, 0.0)

    @property
    def std(self) -> float | None:
        """Sample standard deviation of the warm calls; None of a single one."""
        return float(np.std(self.seconds, ddof=1)) if len(self.seconds) > 1 else None


def measure(
    entrants: Sequence[Entrant],
    repeats: int,
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[list[Timing], list[Skipped]]:
    """Times every entrant alone: a first call each, then `repeats` rounds of one call each.

    Every other round runs in the reverse order, so that nobody always follows the same neighbor.
    The first entrant is ours: its exceptions are raised. Another's exception on its first call
    makes it a `Skipped` with the message.

    Raises:
      ValueError: `repeats` below 1.
    """
    checks.at_least("repeats", repeats, 1)

    def timed(run: Callable[[], Any]) -> tuple[float, Any]:
        start = clock()
        result = run()
        return clock() - start, result

    ready, failed = [], []
    for place, entrant in enumerate(entrants):
        try:
            first, result = timed(entrant.run)
        except Exception as error:
            # A peer that breaks on this machine must not cost the figures of the others.
            if place == 0:
                raise
            failed.append(Skipped(entrant.name, f"failed: {type(error).__name__}: {error}"))
        else:
            ready.append((entrant, first, entrant.figures(result), []))
    for turn in range(repeats):
        for entrant, _, _, seconds in ready if turn % 2 else ready[::-1]:
            seconds.append(timed(entrant.run)[0])
    timings = [Timing(entrant, first, tuple(s), figures) for entrant, first, figures, s in ready]
    return timings, failed


def fastest(timings: Sequence[Timing]) -> Timing | None:
    """The fastest peer that does the same work as ours, which is `timings[0]`."""
    peers = [timing for timing in timings[1:] if timing.entrant.same]
    return min(peers, key=lambda timing: timing.median) if peers else None


def table(timings: Sequence[Timing], *, hide: Collection[str] = ()) -> list[dict[str, Any]]:
    """A row per implementation; "/ ours" is its seconds over ours, above 1 where ours is faster.

    Shows all figures but those named in `hide`.
    """
    ours = timings[0].median
    return [
        {
            "method": timing.entrant.name,
            "seconds": timing.median,
            "seconds std": timing.std,
            "compile": timing.compile,
            "/ ours": timing.median / ours,
            **{name: v for name, v in timing.figures.items() if name not in hide},
        }
        for timing in timings
    ]


def notes(timings: Sequence[Timing], skipped: Sequence[Skipped]) -> str:
    """What there is to say of the entrants, those that did not run included, in one line."""
    remarks = [f"{t.entrant.name}: {t.entrant.note}" for t in timings if t.entrant.note]
    return "; ".join([*remarks, *(f"{s.name}: skipped, {s.reason}" for s in skipped)])
