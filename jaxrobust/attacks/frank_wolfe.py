"""Frank-Wolfe: steps toward the set's extreme points, without projections on the way."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrobust import checks, losses
from jaxrobust.attacks.ascend import judge, objective
from jaxrobust.threats import L1, L2, Linf, Wasserstein
from jaxrobust.threats.extremes import extreme
from jaxrobust.types import Array, Attack, AttackResult, Key, LogitsFn, Loss, static

Known = Linf | L2 | L1 | Wasserstein
"""Sets over which linear functions are maximized exactly."""


class FrankWolfe(Attack):
    """What `frank_wolfe` makes; see there."""

    threat: Known
    steps: int = static()
    loss: Loss = static()
    clean: bool = static(default=True)

    def __call__(self, key: Key, f: LogitsFn, x: Array, y: Array) -> AttackResult:
        del key
        gradient = jax.grad(lambda z: objective(f, self.loss, y)(z)[0])
        top = jnp.asarray(self.threat.upper, x.dtype)

        def step(z: Array, pace: Array) -> tuple[Array, None]:
            g = gradient(jnp.minimum(z, top))
            g = jnp.where(jnp.isfinite(g), g, jnp.zeros_like(g))
            return z + pace * (extreme(self.threat, x, g) - z), None

        paces = 2 / (jnp.arange(self.steps, dtype=x.dtype) + 2)
        z = self.threat.project(x, jax.lax.scan(step, x, paces)[0])
        return judge(
            f,
            self.threat,
            x,
            y,
            z,
            self.loss,
            forwards=self.steps,
            backwards=self.steps,
            clean=self.clean,
        )


def frank_wolfe(threat: Known, *, steps: int = 40, loss: Loss = losses.margin) -> FrankWolfe:
    """Frank-Wolfe ascent: z <- z + 2 / (k + 2) (s - z), s the best point of the set for <g, s>.

    `s` comes from an exact linear oracle (`threats.extremes.extreme`), so that every iterate is an
    average of points of the set. For `Linf`, `L2` and `L1` that is the ball in its pixel box, and
    no iterate is ever projected. For `Wasserstein` it is the transport budget alone: the oracle
    knows no upper end of the box, gradients are taken at the clipped image, and one projection onto
    ball and box closes the attack. Where the box leaves room (color images) few steps suffice
    there; on black-and-white images the projection gives up much of what was gained, and `growing`
    or `pgd` are stronger. Frank & Wolfe 1956; Chen et al. 2020 (arXiv:1811.10828) for balls; Wu,
    Wang & Yu 2020 (arXiv:2008.02883) for transport, there with an entropic oracle that knows the
    box.

    Args:
      threat: `Linf`, `L2`, `L1` or `Wasserstein`.
      steps: gradients and oracle calls.
      loss: what to climb.

    Raises:
      TypeError: another threat.
      ValueError: steps < 1.
    """
    if not isinstance(threat, Known):
        raise TypeError(
            "frank_wolfe needs a Linf, L2, L1 or Wasserstein threat, got " + type(threat).__name__
        )
    checks.at_least("steps", steps, 1)
    return FrankWolfe(threat=threat, steps=steps, loss=loss)
