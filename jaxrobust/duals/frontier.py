"""What a search still has to look at: subdomains by their bounds, the lowest first."""

from __future__ import annotations

import dataclasses
import heapq
import itertools
from typing import Any

import numpy as np


@dataclasses.dataclass
class Frontier:
    """Subdomains that together hold every violation not yet ruled out.

    Items are tuples that start with their bound and a number from `ages`.
    """

    queue: list[Any] = dataclasses.field(default_factory=list)
    stuck: list[Any] = dataclasses.field(default_factory=list)
    """Those in which nothing is left to split, and which yet are not proved."""
    proved: float = np.inf
    """The least bound of the subdomains that are closed."""
    visited: int = 0
    """Subdomains that were bounded."""
    ages: itertools.count = dataclasses.field(default_factory=itertools.count)

    @property
    def done(self) -> bool:
        """Whether every violation is ruled out."""
        return self.visited > 0 and not (self.queue or self.stuck)

    @property
    def lower(self) -> float:
        """The least bound: no point of the set is below. -inf before anything is bounded."""
        if not self.visited:
            return -np.inf
        return min([self.proved, *(item[0] for item in self.queue[:1] + self.stuck)])

    def pop(self, most: int) -> list[Any]:
        """Takes out the items with the lowest bounds."""
        return [heapq.heappop(self.queue) for _ in range(min(most, len(self.queue)))]

    def push(self, item: Any, *, final: bool = False) -> None:
        """Files an item by its bound: proved, to be split, or stuck where `final`."""
        if item[0] > 0:
            self.proved = min(self.proved, item[0])
        elif final:
            self.stuck.append(item)
        else:
            heapq.heappush(self.queue, item)
