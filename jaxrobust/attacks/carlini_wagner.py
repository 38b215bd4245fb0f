"""Carlini & Wagner's l2 attack: distance plus a hinge on the margin, free of the box by tanh."""

from __future__ import annotations

from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrobust import checks
from jaxrobust.attacks.first_order import stacked
from jaxrobust.attacks.minimum_norm import (
    Nearest,
    closer,
    conclude,
    penalized,
    search_constant,
    unmoved,
    until_stalled,
)
from jaxrobust.threats import L2
from jaxrobust.threats.box import numbers
from jaxrobust.types import (
    Array,
    Attack,
    AttackResult,
    BoxedBall,
    Key,
    LogitsFn,
    PyTree,
    Scalar,
    static,
)

EDGE = 0.999999
"""Pixels are shrunk to this share of the box before the inverse tanh, which is infinite at 1."""


class TanhSpace(NamedTuple):
    """The open box as the image of u -> center + half * tanh(u), entry by entry."""

    center: Array
    half: Array

    def point(self, u: Array) -> Array:
        """The point of the box at `u`."""
        return self.center + self.half * jnp.tanh(u)

    def coordinates(self, z: Array) -> Array:
        """The `u` of `z`, of which a point on a face of the box is moved inward by 5e-7 of it."""
        half = jnp.where(self.half == 0, 1, self.half)
        return jnp.arctanh(EDGE * jnp.clip((z - self.center) / half, -1, 1))


def tanh_space(threat: BoxedBall, x: Array) -> TanhSpace:
    """The tanh space of the threat's box, in the dtype of `x`."""
    _, lower, upper = numbers(threat, x, one_radius="carlini_wagner")
    return TanhSpace((upper + lower) / 2, (upper - lower) / 2)


class Walk(NamedTuple):
    """A descent in tanh space: coordinates, Adam's state, the record, and a success flag."""

    u: Array
    adam: PyTree
    record: Nearest
    succeeded: Array


def adam_step(adam: optax.GradientTransformation, walk: Walk, g: Array) -> tuple[Array, PyTree]:
    """The next coordinates and Adam's next state; non-finite gradient entries count as zero."""
    with jax.numpy_dtype_promotion("standard"):  # Optax raises a float to an integer power.
        updates, state = adam.update(jnp.where(jnp.isfinite(g), g, 0), walk.adam)
    return walk.u + cast(Array, updates), state


class CarliniWagner(Attack):
    """What `carlini_wagner` makes; see there."""

    threat: L2
    step_size: Scalar
    first: Scalar
    confidence: Scalar
    steps: int = static()
    searches: int = static()

    def __call__(self, key: Key, f: LogitsFn, x: Array, y: Array) -> AttackResult:
        del key
        step_size, confidence = (jnp.asarray(a, x.dtype) for a in (self.step_size, self.confidence))
        space = tanh_space(self.threat, x)
        start = space.coordinates(x)
        adam = optax.adam(step_size)
        # While a pixel crosses the flat part of tanh the loss does not move, but the search does.
        crossing = jnp.minimum(jnp.max(jnp.abs(start)) / step_size, self.steps).astype(jnp.int32)

        def loss(u: Array, c: Array) -> tuple[Array, Array]:
            return penalized(f, x, y, space.point(u), c, confidence)

        def attempt(c: Array, record: Nearest) -> tuple[Nearest, Array, Array]:
            def step(walk: Walk, _: Array) -> tuple[Walk, Array]:
                (value, margin), g = jax.value_and_grad(loss, has_aux=True)(walk.u, c)
                fools = ~(margin < confidence)
                record = closer(walk.record, self.threat, x, space.point(walk.u), fools)
                u, state = adam_step(adam, walk, g)
                return Walk(u, state, record, walk.succeeded | fools), value

            walk = Walk(start, adam.init(start), record, jnp.zeros((), bool))
            walk, count = until_stalled(step, walk, steps=self.steps, earliest=crossing)
            return walk.record, walk.succeeded, count

        record = unmoved(x, f(x), y)
        record, passes = search_constant(attempt, record, first=self.first, searches=self.searches)
        return conclude(f, self.threat, x, y, record, forwards=passes + 1, backwards=passes)


def carlini_wagner(
    threat: L2,
    *,
    steps: int = 1000,
    searches: int = 9,
    step_size: Scalar = 1e-2,
    first: Scalar = 1e-3,
    confidence: Scalar = 0.0,
) -> CarliniWagner:
    """C&W (l2): minimizes ||z - x||_2^2 + c max(z_y - max_{j != y} z_j + confidence, 0) by Adam.

    z = center + half tanh(u) keeps the box; c is searched per example, from `first` and anew each
    time: it is bisected once an attempt succeeded and multiplied by 10 before. Carlini & Wagner
    2017 (arXiv:1608.04644), section VI-A. An attempt that stalls ends early (`until_stalled`),
    as in their code.

    Returns the closest point over all iterates that is misclassified with a margin of at least
    `confidence`, inside the threat set or not; the clean point if there is none, if it is
    misclassified already, or if the radius is 0. The search does not depend on the radius, which
    decides `success`. Costs at most `steps` * `searches` forward and backward passes, counted per
    example, and two forward passes. Not meant to be differentiated.

    Differences from the released code: the early abort waits until Adam could have carried every
    pixel across the flat part of tanh (black and white pixels would never move otherwise),
    distances are measured from `x` itself, and no search is repeated at the last upper bound.

    The linf forms are `carlini_wagner_linf`, and `pgd(threat, loss=losses.margin, steps=30, ...)`
    on a `Linf` threat, which work on adversarial training calls C&W-infinity (Wang et al. 2019).

    Args:
      threat: `L2` with a finite box.
      steps: of each attempt, static.
      searches: attempts, static.
      step_size: Adam's, in tanh space.
      first: c at first.
      confidence: margin to reach.

    Raises:
      TypeError: another threat.
      ValueError: an infinite box, a count below 1, `step_size` or `first` not positive,
        `confidence` negative.
    """
    check_box(threat, L2, "carlini_wagner")
    checks.at_least("steps", steps, 1)
    checks.at_least("searches", searches, 1)
    checks.positive("step_size", step_size)
    checks.positive("first", first)
    checks.nonnegative("confidence", confidence)
    scalars = {"step_size": step_size, "first": first, "confidence": confidence}
    return CarliniWagner(threat=threat, **stacked(scalars, threat), steps=steps, searches=searches)


def check_box(threat: BoxedBall, kind: type, name: str) -> None:
    """Raises TypeError unless `threat` is a `kind`, ValueError if its box is known as infinite."""
    if not isinstance(threat, kind):
        raise TypeError(f"{name} needs an {kind.__name__} threat, got {type(threat).__name__}")
    for bound in (threat.lower, threat.upper):
        if checks.is_concrete(bound) and not np.isfinite(np.asarray(bound)).all():
            raise ValueError(
                f"{name} needs a finite box (tanh maps onto it), got lower={threat.lower}, "
                f"upper={threat.upper}"
            )
