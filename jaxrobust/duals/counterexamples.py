"""Points of a set at which a network violates a property."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import losses
from jaxrobust.attacks.pgd import pgd
from jaxrobust.attacks.wrappers import restarts as restarted
from jaxrobust.duals.specification import Property
from jaxrobust.types import Array, Key, LogitsFn, ThreatModel


class Problem(NamedTuple):
    """What is asked, as the compiled programs take it."""

    f: Any
    x: Array
    threat: ThreatModel
    """Its pixel box counts."""
    goal: Property


class Point(NamedTuple):
    """A point of the set."""

    z: Array
    value: Array
    """`Property.value` there, on a fresh prediction; NaN where the network gives NaN."""
    inside: Array
    """bool: it lies in the set."""


@dataclasses.dataclass
class Worst:
    """The worst point that a search has seen."""

    upper: float = np.inf
    falsified: bool = False
    witness: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))

    def see(self, point: Point) -> None:
        """Remembers a point if it is the worst so far, and that it is a violation if it is one."""
        value = float(point.value)
        if not point.inside or (value >= self.upper or self.falsified):
            return
        self.upper, self.witness = value, np.asarray(point.z)
        self.falsified = not value > 0


@jax.jit
def judged(f: LogitsFn, x: Array, threat: ThreatModel, goal: Property, z: Array) -> Point:
    """What a property is worth at `z`, by the network itself."""
    return Point(z, goal.value(f(z)), threat.contains(x, z))


@functools.partial(jax.jit, static_argnames=("steps", "restarts"))
def attacked(
    key: Key,
    f: LogitsFn,
    x: Array,
    threat: ThreatModel,
    goal: Property,
    *,
    steps: int,
    restarts: int,
) -> Point:
    """The worst point of several runs of PGD on the property, or `x` where it is worse."""

    def as_classes(z: Array) -> Array:
        value = goal.value(f(z))
        return jnp.stack([value, jnp.zeros_like(value)])

    radius = jnp.max(jnp.asarray(threat.radius, x.dtype))
    attack = pgd(threat, step_size=2.5 * radius / steps, steps=steps, loss=losses.margin)
    found = restarted(attack, restarts)(key, as_classes, x, jnp.zeros((), jnp.int32))
    ends = [judged(f, x, threat, goal, z) for z in (x, found.x)]
    worse = ~(ends[1].value > ends[0].value) & ends[1].inside
    return jax.tree.map(lambda a, b: jnp.where(worse, b, a), *ends)
