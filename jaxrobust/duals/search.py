"""The host's side of branch and bound: a queue of subdomains, the lowest bound first."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.duals.branching import Bounded, begin, halve, improve
from jaxrobust.duals.counterexamples import Problem, Worst, judged
from jaxrobust.duals.frontier import Frontier
from jaxrobust.duals.leaves import settle
from jaxrobust.duals.subdomains import Domain, Multipliers, whole
from jaxrobust.duals.tightening import tighten

TIGHTENINGS = 8
"""How often at most the boxes of the whole region are bounded anew before it is split."""
PROBES = 64
"""Units whose boxes are bounded at a time."""
ROUNDS = 10
"""How often the ascent goes on where nothing is left to split."""


class Item(NamedTuple):
    """A subdomain on the host; sorts by its bound, then by age."""

    lower: float
    age: int
    clause: np.ndarray
    weights: np.ndarray
    alpha: np.ndarray
    """Of the units that bend on the region, in half precision: any slope is sound."""
    splits: dict[int, tuple[float, float]]
    """The boxes that are smaller than the region's, by unit: split, or made to hold violations."""
    mu: np.ndarray
    """Of the units in `splits`, in their order."""
    rounds: int
    """How often it was bounded although nothing was left to split."""


@dataclasses.dataclass
class Search:
    """A search in progress: subdomains that together hold every violation not yet ruled out."""

    problem: Problem
    worst: Worst
    batch_size: int
    steps: int
    root_steps: int
    candidates: int
    frontier: Frontier = dataclasses.field(default_factory=Frontier)

    def begin(self, methods: Sequence[str], chunk: int | None) -> None:
        """Bounds the whole region, for each clause of the property."""
        clauses = jnp.arange(self.problem.goal.count, dtype=jnp.int32)
        self.root, found = begin(
            *self.problem, clauses, methods=tuple(methods), chunk=chunk, steps=self.root_steps
        )
        self.region = jax.tree.map(np.asarray, whole(self.root, clauses))
        self.free = np.flatnonzero(self.root.bends)
        self._look(found)
        for i, clause in enumerate(np.asarray(clauses)):
            own = jax.tree.map(lambda v, i=i: np.asarray(v)[i], found)
            if own.lower > 0:
                self._file(clause, {}, -np.inf, own)
            else:
                self._tighten(clause, own)

    def _tighten(self, clause: np.ndarray, found: Any) -> None:
        """Files the whole region for a clause, with boxes that need to hold violations only."""
        region: Any = (self.region.lower, self.region.upper, clause)
        domain, units, low = Domain(*region), self.free, found.lower
        # from here on, bounds above 0 say that there is no violation, and nothing of values above 0
        self.frontier.proved = min(self.frontier.proved, 0.0)
        for _ in range(TIGHTENINGS):
            bends = self.root.bends
            for start in range(0, len(units), PROBES):
                chunk = units[start : start + PROBES]
                chunk = np.pad(chunk, (0, PROBES - len(chunk)), mode="edge")
                domain, bends = tighten(*self.problem, self.root, domain, found.duals, chunk)
            domain = jax.tree.map(np.asarray, domain)
            if np.any(domain.lower > domain.upper):
                self.frontier.visited += 1
                return
            batch = jax.tree.map(lambda v: v[None], (domain, found.duals))
            better = improve(*self.problem, self.root, *batch, steps=self.steps)
            self._look(better)
            before, found = found.lower, jax.tree.map(lambda v: np.asarray(v)[0], better)
            units = np.flatnonzero(bends)
            # a twentieth of the gap is what splitting a unit would gain
            if found.lower > 0 or not len(units) or found.lower < 0.95 * before:
                break
        changed = (domain.lower > self.region.lower) | (domain.upper < self.region.upper)
        splits = {
            int(u): (float(domain.lower[u]), float(domain.upper[u]))
            for u in np.flatnonzero(changed)
        }
        self._file(clause, splits, low, found)

    def advance(self) -> None:
        """Splits the subdomains with the lowest bounds."""
        items = self.frontier.pop(self.batch_size)
        # a short batch is filled up with its first: one compiled program
        batch = items + items[:1] * (self.batch_size - len(items))
        domains, duals = (_stacked(v) for v in zip(*map(self._on_device, batch), strict=True))
        found = halve(
            *self.problem,
            self.root,
            domains,
            duals,
            steps=self.steps,
            candidates=self.candidates,
        )
        self._look(found.below)
        self._look(found.above)
        found = jax.tree.map(np.asarray, found)
        for i, item in enumerate(items):
            if not found.split[i]:
                ends = jax.tree.map(lambda v, i=i: v[i], found.below)
                self._settle(item, ends)
                continue
            unit, point = int(found.unit[i]), float(found.point[i])
            low, high = item.splits.get(unit, self._box(unit))
            for half, box in ((found.below, (low, point)), (found.above, (point, high))):
                ends = jax.tree.map(lambda v, i=i: v[i], half)
                self._file(item.clause, item.splits | {unit: box}, item.lower, ends)

    def _file(
        self,
        clause: np.ndarray,
        splits: dict[int, tuple[float, float]],
        least: float,
        found: Any,
        rounds: int = 0,
    ) -> None:
        """Puts a subdomain where it belongs, `found` being its `Bounded` on the host.

        `least`, its parent's bound, holds here too.
        """
        lower = float(np.fmax(found.lower, least))
        self.frontier.visited += 1
        duals = found.duals
        item = Item(
            lower,
            next(self.frontier.ages),
            clause,
            duals.weights,
            duals.alpha[self.free].astype(np.float16),
            splits,
            duals.mu[list(splits)],
            rounds,
        )
        self.frontier.push(item)

    def _settle(self, item: Item, found: Bounded) -> None:
        """Where nothing is left to split: the ascent goes on, and at last a program decides."""
        if found.lower > 0 or item.rounds < ROUNDS:
            self._file(item.clause, item.splits, item.lower, found, item.rounds + 1)
            return
        domain, duals = self._on_device(item)
        lower, points = settle(*self.problem, self.root, domain, duals, list(item.splits))
        for z in points:
            self.worst.see(judged(*self.problem, jnp.asarray(z, self.problem.x.dtype)))
        self.frontier.push(item._replace(lower=max(lower, item.lower)), final=True)

    def _look(self, found: Bounded) -> None:
        """Replays the point that looks worst on the network."""
        worst = int(np.argmin(np.nan_to_num(np.asarray(found.worst), nan=-np.inf)))
        self.worst.see(judged(*self.problem, found.witness[worst]))

    def _box(self, unit: int) -> tuple[float, float]:
        return float(self.region.lower[unit]), float(self.region.upper[unit])

    def _on_device(self, item: Item) -> tuple[Domain, Multipliers]:
        """A subdomain and its multipliers, of all units."""
        lower, upper = self.region.lower.copy(), self.region.upper.copy()
        units = list(item.splits)
        if units:
            lower[units], upper[units] = np.array(list(item.splits.values())).T
        alpha, mu = np.zeros_like(lower), np.zeros_like(lower)
        alpha[self.free], mu[units] = item.alpha, item.mu
        domain: Any = (lower, upper, item.clause)
        duals: Any = (alpha, mu, item.weights)
        return Domain(*domain), Multipliers(*duals)


def _stacked(parts: Any) -> Any:
    return jax.tree.map(lambda *v: np.stack(v), *parts)
