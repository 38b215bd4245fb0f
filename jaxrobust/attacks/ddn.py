"""DDN: the direction follows the gradient, the norm shrinks or grows with each verdict."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrobust import checks, losses
from jaxrobust.attacks.ascend import fooled, objective
from jaxrobust.attacks.first_order import stacked
from jaxrobust.attacks.minimum_norm import Nearest, closer, conclude
from jaxrobust.threats import L2
from jaxrobust.threats.box import numbers
from jaxrobust.types import Array, Attack, AttackResult, Key, LogitsFn, Scalar, static

LAST_STEP = 0.01
"""Length of the last gradient step; the cosine schedule starts at 1."""


class DDN(Attack):
    """What `ddn` makes; see there."""

    threat: L2
    first_norm: Scalar
    gamma: Scalar
    steps: int = static()

    def __call__(self, key: Key, f: LogitsFn, x: Array, y: Array) -> AttackResult:
        _, lower, upper = numbers(self.threat, x, one_radius="DDN")
        gamma = jnp.asarray(self.gamma, x.dtype)
        gradient = jax.value_and_grad(objective(f, losses.cross_entropy, y), has_aux=True)
        farthest = self.threat.size(x, jnp.where(upper - x > x - lower, upper, lower))

        # Stands in for zero gradients; drawn once: a normal draw per step would cost a third more.
        spare = jax.random.normal(key, x.shape, x.dtype)

        def step(carry: tuple, pace: Array) -> tuple[tuple, None]:
            delta, norm, record = carry
            z = x + delta
            (_, fools), g = gradient(z)
            record = closer(record, self.threat, x, z, fools)
            g = self.threat.steepest(jnp.where(jnp.isfinite(g), g, jnp.zeros_like(g)), z)
            delta = delta + pace * jnp.where(jnp.any(g != 0), g, self.threat.steepest(spare, z))
            norm = jnp.minimum(norm * jnp.where(fools, 1 - gamma, 1 + gamma), farthest)
            delta = norm * self.threat.steepest(delta, z)
            return (jnp.clip(x + delta, lower, upper) - x, norm, record), None

        turn = jnp.arange(self.steps, dtype=x.dtype) / self.steps
        pace = LAST_STEP + (1 - LAST_STEP) * (1 + jnp.cos(jnp.pi * turn)) / 2
        none = Nearest(x, jnp.full((), jnp.inf, x.dtype))
        start = (jnp.zeros_like(x), jnp.asarray(self.first_norm, x.dtype), none)
        (delta, _, record), _ = jax.lax.scan(step, start, pace)
        z = jnp.clip(x + delta, lower, upper)
        record = closer(record, self.threat, x, z, fooled(f(z), y))
        return conclude(f, self.threat, x, y, record, forwards=self.steps + 1, backwards=self.steps)


def ddn(threat: L2, *, steps: int = 100, first_norm: Scalar = 1.0, gamma: Scalar = 0.05) -> DDN:
    """DDN (l2): decouples the direction of a perturbation from its norm.

    delta <- delta + a_k g / ||g||_2 with g the gradient of the cross-entropy and a_k falling from
    1 to .01 by a cosine; its norm is then set to rho, where rho <- rho (1 - gamma) if the point
    before fooled the model, else rho (1 + gamma); last, the pixel box. A zero gradient is replaced
    by a random direction, the same at every step. Rony et al. 2019 (arXiv:1811.09600), Algorithm 1.

    Returns the closest misclassified point over all iterates, the last one included, inside the
    threat set or not; the clean point if there is none, if it is misclassified already, or if
    the radius is 0. The search does not depend on the radius, which decides `success`. Costs
    `steps` forward and backward passes, and a forward pass for the last iterate and the judge
    each. Not meant to be differentiated.

    As in the released code, and unlike the paper's Algorithm 1, rho never exceeds the distance to
    the farthest corner of the box. Points are not rounded to 256 levels, and unlike
    that code's loop the last iterate counts.

    Args:
      threat: `L2`.
      steps: static.
      first_norm: rho at first, in the units of the input.
      gamma: by how much the norm changes in a step.

    Raises:
      TypeError: another threat.
      ValueError: steps < 1, or a number negative or not finite.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxrobust import attacks, threats
      >>> f = lambda x: jnp.stack([x[0], x[1]])
      >>> attack = attacks.ddn(threats.L2(1.0), steps=100)
      >>> found = attack(jax.random.key(0), f, jnp.array([0.6, 0.4]), jnp.int32(0))
      >>> round(float(found.norm), 2)  # the boundary is 0.2 / sqrt(2) away
      0.14
    """
    if not isinstance(threat, L2):
        raise TypeError(f"ddn needs an L2 threat, got {type(threat).__name__}; see fab")
    checks.at_least("steps", steps, 1)
    scalars = {"first_norm": first_norm, "gamma": gamma}
    for name, value in scalars.items():
        checks.nonnegative(name, value)
    return DDN(threat=threat, **stacked(scalars, threat), steps=steps)
