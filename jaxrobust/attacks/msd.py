"""Multi steepest descent: one ascent on the union of several balls."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, get_args

import jax
import jax.numpy as jnp
import optax

from jaxrobust import checks, losses
from jaxrobust.attacks import starts
from jaxrobust.attacks.ascend import ascend, judge, objective
from jaxrobust.attacks.first_order import Keep, Start, stacked
from jaxrobust.threats import L1, Union
from jaxrobust.types import (
    Array,
    Attack,
    AttackResult,
    Key,
    LogitsFn,
    Loss,
    Scalar,
    ThreatModel,
    length,
    static,
)


def _spread(key: Key, member: ThreatModel, coordinates: tuple[int, int]) -> ThreatModel:
    """An l1 ball with a random number of coordinates per step; other sets as they are."""
    if not isinstance(member, L1):
        return member
    low, high = coordinates
    return dataclasses.replace(member, coordinates=jax.random.randint(key, (), low, high + 1))


class MSD(Attack):
    """What `msd` makes; see there."""

    threat: Union
    step_sizes: tuple[Scalar, ...] = length()
    coordinates: tuple[int, int] = static()
    steps: int = static()
    start: Start = static()
    loss: Loss = static()
    keep: str = static()
    clean: bool = static(default=True)

    def __call__(self, key: Key, f: LogitsFn, x: Array, y: Array) -> AttackResult:
        start_key, step_key = jax.random.split(key)
        goal = objective(f, self.loss, y)
        sizes = [jnp.asarray(size, x.dtype) for size in self.step_sizes]

        def best_of_members(updates: Any, state: Any, params: Any = None) -> tuple[Array, Key]:
            key, z = state, params
            now, later = jax.random.split(key)
            candidates = []
            for member, size in zip(self.threat.scaled, sizes, strict=True):
                direction = _spread(now, member, self.coordinates).steepest(-updates, z)
                candidates.append(member.project(x, z + size * direction))
            points = jnp.stack(candidates)
            values = jax.vmap(lambda point: goal(point)[0])(points)
            return points[jnp.argmax(values)] - z, later

        path = ascend(
            goal,
            self.threat,
            x,
            self.start(start_key, self.threat, x),
            optax.GradientTransformation(lambda params: step_key, best_of_members),
            steps=self.steps,
        )
        z, extra = (path.best.z, 1) if self.keep == "best" else (path.last, 0)
        forwards = self.steps * (1 + len(self.threat.members)) + extra
        costs = {"forwards": forwards, "backwards": self.steps}
        return judge(f, self.threat, x, y, z, self.loss, clean=self.clean, **costs)


def msd(
    threat: Union,
    *,
    step_sizes: Sequence[Scalar],
    steps: int,
    coordinates: tuple[int, int] = (5, 20),
    start: Start = starts.clean,
    loss: Loss = losses.cross_entropy,
    keep: Keep = "best",
) -> MSD:
    """Multi steepest descent: at each step the best of every member's projected steepest step.

    z <- the candidate P_p(z + a_p d_p) of highest loss over the members p of the union, all from
    one gradient. Maximizes `loss` over the union. Maini et al. 2020; Wong's thesis, section
    5.3.2, Algorithm 9. With one member other than l1 it is PGD.

    Args:
      threat: the union, for example `Union((Linf(.3), L2(1.5), L1(12)))`.
      step_sizes: a_p, one per member in its own norm, in the members' order.
      steps: gradient evaluations; each costs one forward pass more per member.
      coordinates: an l1 step is shared by a number of coordinates drawn anew at each step from
        this range, ends included (thesis, section 5.3.4).
      start, loss, keep: see `first_order`.

    Raises:
      ValueError: other than one step size per member, a negative one, steps < 1, a range that is
        empty or starts below 1, an unknown `keep`.
      TypeError: a threat that is no `Union`.
    """
    if not isinstance(threat, Union):
        raise TypeError(f"msd attacks a threats.Union, got {type(threat).__name__}")
    if len(step_sizes) != len(threat.members):
        raise ValueError(
            f"msd needs a step size for each of the {len(threat.members)} sets, "
            f"got {len(step_sizes)}"
        )
    checks.at_least("steps", steps, 1)
    checks.choice("keep", keep, get_args(Keep))
    low, high = coordinates
    checks.at_least("coordinates[0]", low, 1)
    checks.at_least("coordinates[1]", high, low)
    for size in step_sizes:
        checks.nonnegative("step_sizes", size)
    sizes = stacked({str(i): size for i, size in enumerate(step_sizes)}, threat)
    return MSD(
        threat=threat,
        step_sizes=tuple(sizes.values()),
        coordinates=(low, high),
        steps=steps,
        start=start,
        loss=loss,
        keep=keep,
    )
