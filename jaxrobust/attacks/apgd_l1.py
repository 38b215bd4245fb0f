"""APGD for l1: sparse steps whose sparsity and size adapt, run through shrinking radii."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import checks, losses
from jaxrobust.attacks import starts
from jaxrobust.attacks.apgd import Found, evaluator, nothing, update
from jaxrobust.attacks.ascend import judge
from jaxrobust.attacks.first_order import Start
from jaxrobust.threats import L1
from jaxrobust.threats.box import numbers
from jaxrobust.types import Array, Attack, AttackResult, Key, LogitsFn, Loss, static

projected_normal: Start = partial(starts.gaussian, scale=1.0)
"""P(x + N(0, I)): the released code's start, a sparse point of the sphere."""


class Schedule(NamedTuple):
    """What happens at each evaluation; arrays `[evaluations]`, or one entry of each."""

    multiple: np.ndarray | Array
    """The stage's radius in radii of the threat."""
    following: np.ndarray | Array
    """The same for the next evaluation."""
    check: np.ndarray | Array
    """Whether sparsity and step size are adapted before the next step."""
    ends: np.ndarray | Array
    """Whether the next evaluation opens a new stage."""


def _schedule(steps: int, larger_radii: bool) -> Schedule:
    stages = [(1, steps)]
    if larger_radii:
        early = max(3 * steps // 10, 1)
        stages = [(3, early), (2, early), (1, steps - 2 * early)]
    multiple = np.concatenate([np.full(n + 1, m, np.float32) for m, n in stages])
    check = [i > 0 and i % max(n // 25, 1) == 0 for _, n in stages for i in range(n + 1)]
    following = np.append(multiple[1:], multiple[-1:])
    return Schedule(multiple, following, np.array(check), multiple != following)


class State(NamedTuple):
    """Between two steps of one stage."""

    z: Array
    found: Found
    step_size: Array
    count: Array  # pyright: ignore[reportIncompatibleMethodOverride]
    """How many coordinates share a step."""
    moved: Array
    """Coordinates in which the best point of the last check differed from the clean example."""


def _moved(x: Array, z: Array) -> Array:
    return jnp.sum(z != x, dtype=jnp.int32)


def _share(moved: Array) -> Array:
    """Coordinates of the next steps: two thirds of those moved, rounded up, at least one."""
    return jnp.maximum((2 * moved + 2) // 3, 1)


def _sparse_sign(gradient: Array, count: Array) -> Array:
    """sign / count on the `count` largest entries; the box is the projection's matter here."""
    ball = L1(jnp.zeros((), gradient.dtype), -jnp.inf, jnp.inf, count)
    return ball.steepest(gradient, jnp.zeros_like(gradient))


class APGDL1(Attack):
    """What `apgd_l1` makes; see there."""

    threat: L1
    steps: int = static()
    loss: Loss = static()
    start: Start = static()
    larger_radii: bool = static()
    clean: bool = static(default=True)

    def __call__(self, key: Key, f: LogitsFn, x: Array, y: Array) -> AttackResult:
        radius, _, _ = numbers(self.threat, x, one_radius="apgd_l1")
        evaluate = evaluator(f, self.loss, y)
        schedule = _schedule(self.steps, self.larger_radii)

        def step(state: State, now: Schedule) -> tuple[State, None]:
            here = evaluate(state.z)
            found = update(state.found, state.z, here)

            longest = now.multiple * radius
            moved = _moved(x, found.z)
            sparser = 20 * moved < 19 * state.moved
            shorter = jnp.clip(state.step_size / 1.5, longest / 10, longest)
            adapted = jnp.where(sparser, longest, shorter)
            step_size = jnp.where(now.check, adapted, state.step_size)
            count = jnp.where(now.check, _share(moved), state.count)
            jump = now.check & sparser
            z = jnp.where(jump, found.z, state.z)
            g = jnp.where(jump, found.gradient, here.gradient)

            # The next stage starts afresh at the best point's projection onto its smaller ball.
            wish = jnp.where(now.ends, found.z, z + step_size * _sparse_sign(g, count))
            ball = dataclasses.replace(self.threat, radius=now.following * radius)
            z = ball.project(x, wish)
            same_stage = State(z, found, step_size, count, jnp.where(now.check, moved, state.moved))
            left = _moved(x, z)
            next_stage = State(
                z,
                nothing(z, found.value.dtype),
                jnp.asarray(now.following * radius),
                _share(left),
                left,
            )
            state = jax.tree.map(
                lambda new, old: jnp.where(now.ends, new, old), next_stage, same_stage
            )
            return state, None

        first = dataclasses.replace(self.threat, radius=float(schedule.multiple[0]) * radius)
        z = self.start(key, first, x)
        state = State(
            z=z,
            found=nothing(z, jax.eval_shape(evaluate, z).value.dtype),
            step_size=jnp.asarray(first.radius),
            count=jnp.asarray(-(-x.size // 5), jnp.int32),
            moved=jnp.asarray(x.size, jnp.int32),
        )
        lengths = (jnp.asarray(v, radius.dtype) for v in (schedule.multiple, schedule.following))
        now = Schedule(*lengths, *(jnp.asarray(v, bool) for v in (schedule.check, schedule.ends)))
        state, _ = jax.lax.scan(step, state, now)
        passes = len(schedule.check)
        costs = {"forwards": passes, "backwards": passes}
        return judge(
            f, self.threat, x, y, state.found.result(), self.loss, clean=self.clean, **costs
        )


def apgd_l1(
    threat: L1,
    *,
    steps: int = 100,
    loss: Loss = losses.cross_entropy,
    larger_radii: bool = True,
    start: Start = projected_normal,
) -> APGDL1:
    """l1-APGD: maximizes `loss` by sparse steps whose sparsity follows that of the best point.

    x <- P(x + eta sign(g_s) / k), g_s the k entries of largest |g| (at first a fifth of all), P
    the exact projection onto ball and box, eta = radius at first. Every 4 % of a stage's steps k
    becomes two thirds of the coordinates the best point moves. If these fell below 95 % of the
    last check's, eta returns to the radius and the search to the best point; if not, eta shrinks
    by 1.5, to no less than a tenth of the radius. Croce & Hein 2021, "Mind the box: l1-APGD for
    sparse adversarial attacks on image classifiers" (arXiv:2103.01208).

    With `larger_radii` the search runs through 3, 2 and 1 radii with 30, 30 and 40 % of the
    steps, and each stage starts at the projection of the last one's best point; only the last
    stage can fool. Returns its latest iterate that does, else the clean example if that does, else
    the last stage's best; costs a forward and backward pass per step and stage start, and two
    forward passes for the verdict. Not meant to be differentiated.

    Differences from the released code: of tied gradient entries the first in memory order move,
    there all of them; the first of several stages starts from a true projection and from a fifth
    of the coordinates, there from its start's; shares of steps round down, there up; the loss and
    the targets differ as in `apgd`.

    Args:
      threat: the set; its `coordinates` are not used.
      steps: N, static.
      loss: what to climb, from logits `[K]` and label.
      start: `(key, threat, x) -> z`, inside the set of the first stage, which it is given.

    Raises:
      TypeError: another threat.
      ValueError: steps < 1, or < 3 with `larger_radii`, whose stages need a step each.
    """
    if not isinstance(threat, L1):
        raise TypeError(f"apgd_l1 needs an L1 threat, got {type(threat).__name__}; use apgd")
    checks.at_least("steps", steps, 3 if larger_radii else 1)
    return APGDL1(threat=threat, steps=steps, loss=loss, start=start, larger_radii=larger_radii)
