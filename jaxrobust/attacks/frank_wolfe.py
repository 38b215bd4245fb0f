"""Frank-Wolfe: steps toward the set's extreme points, without projections on the way."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrobust import checks, losses
from jaxrobust.attacks.ascend import judge, objective
from jaxrobust.threats import L1, L2, Linf, Wasserstein, extreme
from jaxrobust.types import Array, Attack, AttackResult, Key, LogitsFn, Loss, static

Known = Linf | L2 | L1 | Wasserstein
"""Sets over which linear functions have a maximizer at hand."""


class FrankWolfe(Attack):
    """What `frank_wolfe` makes; see there."""

    threat: Known
    steps: int = static()
    loss: Loss = static()
    boxed: bool = static()
    clean: bool = static(default=True)

    def oracle(self, x: Array, gradient: Array) -> Array:
        """The point that a step goes toward."""
        if not isinstance(self.threat, Wasserstein):
            return extreme(self.threat, x, gradient)
        best = self.threat.extreme_in_box if self.boxed else self.threat.extreme
        return best(x, gradient)

    def __call__(self, key: Key, f: LogitsFn, x: Array, y: Array) -> AttackResult:
        del key
        gradient = jax.grad(lambda z: objective(f, self.loss, y)(z)[0])
        top = jnp.asarray(self.threat.upper, x.dtype)

        def step(z: Array, pace: Array) -> tuple[Array, None]:
            g = gradient(jnp.minimum(z, top))
            g = jnp.where(jnp.isfinite(g), g, jnp.zeros_like(g))
            return z + pace * (self.oracle(x, g) - z), None

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


def frank_wolfe(
    threat: Known, *, steps: int = 40, loss: Loss = losses.margin, boxed: bool = True
) -> FrankWolfe:
    """Frank-Wolfe ascent: z <- z + 2 / (k + 2) (s - z), s the best point of the set for `<g, s>`.

    Every iterate is an average of points of the set, and none needs to be projected. For `Linf`,
    `L2` and `L1` the oracle is exact over the ball in its pixel box (`threats.extreme`). For
    `Wasserstein` it is entropic over transport budget and box
    (`threats.Wasserstein.extreme_in_box`), or with `boxed=False` exact over the budget alone: its
    points may leave the box above, gradients are taken at the clipped image, and the projection
    that closes the attack gives up much of what was gained on black-and-white images. Frank & Wolfe
    1956; Chen et al. 2020 (arXiv:1811.10828) for balls; Wu, Wang & Yu 2020 (arXiv:2008.02883) for
    transport.

    Args:
      threat: `Linf`, `L2`, `L1` or `Wasserstein`.
      steps: gradients and oracle calls.
      loss: what to climb.
      boxed: whether the oracle of `Wasserstein` knows the upper end of the box; that of a ball
        always does.

    Raises:
      TypeError: another threat.
      ValueError: steps < 1.
    """
    if not isinstance(threat, Known):
        raise TypeError(
            "frank_wolfe needs a Linf, L2, L1 or Wasserstein threat, got " + type(threat).__name__
        )
    checks.at_least("steps", steps, 1)
    return FrankWolfe(threat=threat, steps=steps, loss=loss, boxed=boxed)
