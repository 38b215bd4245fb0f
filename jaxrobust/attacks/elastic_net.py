"""EAD: Carlini & Wagner's objective with an l1 term, by proximal gradient steps."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

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
from jaxrobust.threats import L1
from jaxrobust.threats.box import numbers
from jaxrobust.types import Array, Attack, AttackResult, Key, LogitsFn, Scalar, static


class Iterate(NamedTuple):
    """A point, the extrapolated point the next gradient is taken at, and what was found."""

    z: Array
    ahead: Array
    record: Nearest
    succeeded: Array


class ElasticNet(Attack):
    """What `elastic_net` makes; see there."""

    threat: L1
    beta: Scalar
    step_size: Scalar
    first: Scalar
    confidence: Scalar
    steps: int = static()
    searches: int = static()

    def __call__(self, key: Key, f: LogitsFn, x: Array, y: Array) -> AttackResult:
        del key
        _, lower, upper = numbers(self.threat, x, one_radius="elastic_net")
        beta, step_size, confidence = (
            jnp.asarray(a, x.dtype) for a in (self.beta, self.step_size, self.confidence)
        )

        def smooth(z: Array, c: Array) -> tuple[Array, Array]:
            return penalized(f, x, y, z, c, confidence)

        def attempt(c: Array, record: Nearest) -> tuple[Nearest, Array, Array]:
            def step(now: Iterate, k: Array) -> tuple[Iterate, Array]:
                g = jax.grad(smooth, has_aux=True)(now.ahead, c)[0]
                turn = k.astype(x.dtype)
                pace = step_size * jnp.sqrt(1 - turn / self.steps)
                move = now.ahead - pace * jnp.where(jnp.isfinite(g), g, 0) - x
                shrunk = jnp.sign(move) * jnp.maximum(jnp.abs(move) - beta, 0)
                z = jnp.clip(x + shrunk, lower, upper)
                value, margin = smooth(z, c)
                fools = ~(margin < confidence)
                record = closer(now.record, self.threat, x, z, fools)
                ahead = z + turn / (turn + 3) * (z - now.z)
                value = value + beta * self.threat.size(x, z)
                return Iterate(z, ahead, record, now.succeeded | fools), value

            start = Iterate(x, x, record, jnp.zeros((), bool))
            end, count = until_stalled(step, start, steps=self.steps)
            return end.record, end.succeeded, count

        record = unmoved(x, f(x), y)
        record, passes = search_constant(attempt, record, first=self.first, searches=self.searches)
        return conclude(f, self.threat, x, y, record, forwards=2 * passes + 1, backwards=passes)


def elastic_net(
    threat: L1,
    *,
    steps: int = 1000,
    searches: int = 9,
    beta: Scalar = 1e-3,
    step_size: Scalar = 1e-2,
    first: Scalar = 1e-3,
    confidence: Scalar = 0.0,
) -> ElasticNet:
    """EAD (l1): minimizes c max(z_y - max_{j != y} z_j + confidence, 0) + ||d||_2^2 + beta ||d||_1.

    With d = z - x, FISTA: a gradient step of length step_size sqrt(1 - k / steps) on the first two
    terms from the extrapolated point, then entries of d shrink by `beta` (to zero at most) and are
    clipped to the box. c is searched as in `carlini_wagner`. Chen et al. 2018 (arXiv:1709.04114),
    Algorithm 1, with its l1 decision rule. As there, an entry shrinks by `beta` itself in every
    step, so that the l1 term weighs beta / step_size in effect.

    Returns the point of least l1 norm over all iterates that is misclassified with a margin of at
    least `confidence`, inside the threat set or not; the clean point if there is none, if it is
    misclassified already, or if the radius is 0. On linear models the l2 term spreads the
    perturbation, so that it exceeds the least l1 norm unless `beta` is large. The search does not
    depend on the radius, which decides `success`. Costs at most `steps` * `searches` times 2
    forward and 1 backward passes, counted per example, and two forward passes. Not meant to be
    differentiated.

    Args:
      threat: `L1`.
      steps: of each attempt, static.
      searches: attempts, static.
      beta: weight of the l1 term.
      step_size: of the first step.
      first: c at first.
      confidence: margin to reach.

    Raises:
      TypeError: another threat.
      ValueError: a count below 1, `step_size` or `first` not positive, `beta` or `confidence`
        negative.
    """
    if not isinstance(threat, L1):
        raise TypeError(f"elastic_net needs an L1 threat, got {type(threat).__name__}")
    checks.at_least("steps", steps, 1)
    checks.at_least("searches", searches, 1)
    positive = {"step_size": step_size, "first": first}
    nonnegative = {"beta": beta, "confidence": confidence}
    for name, value in positive.items():
        checks.positive(name, value)
    for name, value in nonnegative.items():
        checks.nonnegative(name, value)
    return ElasticNet(
        threat=threat, **stacked(positive | nonnegative, threat), steps=steps, searches=searches
    )
