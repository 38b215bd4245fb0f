"""FAB: walks along the decision boundary toward the point of it closest to the clean example."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrobust import checks
from jaxrobust.attacks.ascend import fooled
from jaxrobust.attacks.first_order import stacked
from jaxrobust.attacks.linearized_boundary import (
    Linearize,
    check_norm,
    nearest,
    shortest_move,
    toward,
)
from jaxrobust.attacks.minimum_norm import Nearest, closer, conclude, nearest_of, unmoved
from jaxrobust.attacks.wrappers import abreast, check_chunk, over, rivals
from jaxrobust.threats import Linf
from jaxrobust.threats.box import numbers
from jaxrobust.types import (
    Array,
    Attack,
    AttackResult,
    BoxedBall,
    Key,
    LogitsFn,
    Scalar,
    static,
)

FLOOR = 1e-8
"""Least length of a move where two are compared: the released code's, against 0 / 0."""


def _halfway(key: Key, threat: BoxedBall, x: Array) -> Array:
    """A random point half the radius away, clipped to the box."""
    radius, lower, upper = numbers(threat, x, one_radius="FAB")
    if isinstance(threat, Linf):
        noise = jax.random.uniform(key, x.shape, radius.dtype, minval=-1, maxval=1)
    else:
        noise = jax.random.normal(key, x.shape, radius.dtype)
    length = threat.size(jnp.zeros_like(noise), noise)
    step = noise / jnp.where(length == 0, 1, length)
    return jnp.clip(x + 0.5 * radius * step, lower, upper)


def _inner(w: Array, move: Array) -> Array:
    """The inner product of `w` and `move`.

    The comparison keeps XLA on a CPU from a batched matrix product of vectors, which took twenty
    times as long (jax 0.10).
    """
    products = w * move
    return jnp.sum(jnp.where(jnp.isnan(products), 0, products))


class FAB(Attack):
    """What `fab` makes; see there."""

    threat: BoxedBall
    alpha_max: Scalar
    eta: Scalar
    beta: Scalar
    steps: int = static()
    targets: int | None = static()
    restarts: int = static()
    chunk: int | None = static()

    def lanes(self, classes: int) -> int:
        goals = 1 if self.targets is None else min(self.targets, classes - 1)
        return abreast(goals * self.restarts, self.chunk)

    def __call__(self, key: Key, f: LogitsFn, x: Array, y: Array) -> AttackResult:
        logits = f(x)
        targeted = self.targets is not None
        goals = rivals(logits, y, self.targets) if targeted else jnp.zeros(1, jnp.int32)

        def run(key: Key, goal: Array, first: Array) -> Nearest:
            start = jnp.where(first, x, _halfway(key, self.threat, x))
            linearize = toward(f, y, goal) if targeted else nearest(f, self.threat, y)
            return self.walk(f, x, y, start, linearize)

        runs = goals.size * self.restarts
        first = jnp.arange(runs) < goals.size
        args = (jax.random.split(key, runs), jnp.tile(goals, self.restarts), first)
        found = nearest_of(over(run, args, chunk=self.chunk))
        clean = unmoved(x, logits, y)
        record = jax.tree.map(lambda a, b: jnp.where(clean.found, a, b), clean, found)
        costs = {
            "forwards": 1 + 2 * runs * self.steps,
            "backwards": runs * self.steps * (1 if targeted else logits.size),
        }
        return conclude(f, self.threat, x, y, record, **costs)

    def walk(self, f: LogitsFn, x: Array, y: Array, start: Array, linearize: Linearize) -> Nearest:
        """One walk from `start`."""
        threat = self.threat
        scalars = (self.alpha_max, self.eta, self.beta)
        alpha_max, eta, beta = (jnp.asarray(value, x.dtype) for value in scalars)
        _, lower, upper = numbers(threat, x, one_radius="FAB")

        def length(move: Array) -> Array:
            return jnp.maximum(threat.size(jnp.zeros_like(move), move), FLOOR)

        def step(carry: tuple[Array, Nearest], _: None) -> tuple[tuple[Array, Nearest], None]:
            z, record = carry
            value, w = linearize(z)
            ahead = shortest_move(threat, z, w, -value)
            home = shortest_move(threat, x, w, -value - _inner(w, x - z))
            alpha = jnp.minimum(length(ahead) / (length(ahead) + length(home)), alpha_max)
            moved = (1 - alpha) * (z + eta * ahead) + alpha * (x + eta * home)
            moved = jnp.clip(moved, lower, upper)
            fools = fooled(f(moved), y)
            record = closer(record, threat, x, moved, fools)
            return (jnp.where(fools, x + beta * (moved - x), moved), record), None

        none = Nearest(x, jnp.full((), jnp.inf, x.dtype))
        (_, record), _ = jax.lax.scan(step, (start, none), length=self.steps)
        return record


def fab(
    threat: BoxedBall,
    *,
    steps: int = 100,
    targets: int | None = 9,
    restarts: int = 1,
    alpha_max: Scalar = 0.1,
    eta: Scalar = 1.05,
    beta: Scalar = 0.9,
    chunk: int | None = None,
) -> FAB:
    """FAB (linf, l2, l1): the smallest perturbation, by projections onto linearized boundaries.

    Each step linearizes a decision boundary at z and takes the shortest moves d from z and d_0
    from the clean x onto it, inside the pixel box (`shortest_move`):
    z <- clip((1 - a)(z + eta d) + a (x + eta d_0)), a = min(||d|| / (||d|| + ||d_0||), alpha_max).
    A point that fools the model is kept if it is closer than all before, and the walk goes on at
    x + beta (z - x). Croce & Hein 2020 (arXiv:1907.02044), Algorithm 1; the targeted form FAB-T
    is that of AutoAttack (Croce & Hein 2020, arXiv:2003.01690).

    Returns the closest misclassified point seen, inside the threat set or not; the clean point
    if there is none, if it is misclassified already, or if the radius is 0. Apart from random
    starts the search does not depend on the radius, which decides `success`. A walk costs 2
    forward passes a step, and 1 backward pass if targeted, else K. Not meant to be
    differentiated.

    On a linear model the result exceeds the least perturbation by at most 1 % (that is `eta`'s
    doing). Differences from the paper: no final search along the last segment, which the authors'
    AutoAttack code leaves out too. Differences from that code: all targets run on every example,
    side by side, and the closest point counts; there, later ones see survivors only.

    Args:
      threat: `Linf`, `L2` or `L1`.
      steps: of each walk, static.
      targets: FAB-T walks to each of this many wrong classes of largest clean logit (at most
        K - 1); None is untargeted FAB, which at each step takes the nearest linearized boundary.
      restarts: walks per target: the first starts at `x`, the others at random points half
        the radius away.
      alpha_max: largest weight of the clean point.
      eta: extrapolation.
      beta: backward step.
      chunk: how many walks run side by side (default all); memory only.

    Raises:
      TypeError: another threat.
      ValueError: a count below 1, a number negative or not finite.
    """
    check_norm(threat, "fab")
    checks.at_least("steps", steps, 1)
    checks.at_least("restarts", restarts, 1)
    if targets is not None:
        checks.at_least("targets", targets, 1)
    check_chunk(chunk)
    scalars = {"alpha_max": alpha_max, "eta": eta, "beta": beta}
    for name, value in scalars.items():
        checks.nonnegative(name, value)
    return FAB(
        threat=threat,
        **stacked(scalars, threat),
        steps=steps,
        targets=targets,
        restarts=restarts,
        chunk=chunk,
    )
