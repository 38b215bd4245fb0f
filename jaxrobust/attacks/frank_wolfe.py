"""Frank-Wolfe: steps toward the set's extreme points, without projections on the way."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrobust import checks, losses
from jaxrobust.attacks.ascend import judge, objective
from jaxrobust.threats import Wasserstein
from jaxrobust.types import Array, Attack, AttackResult, Key, LogitsFn, Loss, static


class FrankWolfe(Attack):
    """What `frank_wolfe` makes; see there."""

    threat: Wasserstein
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
            return z + pace * (self.threat.extreme(x, g) - z), None

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


def frank_wolfe(threat: Wasserstein, *, steps: int = 40, loss: Loss = losses.margin) -> FrankWolfe:
    """Frank-Wolfe ascent: z <- z + 2 / (k + 2) (s - z), s the best point of the set for <g, s>.

    `s` comes from the exact linear oracle, so that every iterate is an average of images within the
    transport budget; the oracle knows no upper end of the box, gradients are taken at the clipped
    image, and one projection onto ball and box closes the attack. Where the box leaves room
    (color images) few steps suffice; on black-and-white images the projection gives up much of
    what was gained, and `growing` or `pgd` are stronger. Frank & Wolfe 1956; Wu, Wang & Yu 2020
    (arXiv:2008.02883), there with an entropic oracle that knows the box.

    Args:
      threat: `Wasserstein`.
      steps: gradients and oracle calls.
      loss: what to climb.

    Raises:
      TypeError: another threat.
      ValueError: steps < 1.
    """
    if not isinstance(threat, Wasserstein):
        raise TypeError(f"frank_wolfe needs a Wasserstein threat, got {type(threat).__name__}")
    checks.at_least("steps", steps, 1)
    return FrankWolfe(threat=threat, steps=steps, loss=loss)
