"""Frank-Wolfe: steps toward the set's extreme points, without projections on the way."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrobust import checks, losses
from jaxrobust.attacks.ascend import judge, objective
from jaxrobust.threats import Wasserstein
from jaxrobust.types import Array, Attack, AttackResult, Key, LogitsFn, Loss, make_attack


def _run(
    key: Key,
    f: LogitsFn,
    x: Array,
    y: Array,
    *,
    threat: Wasserstein,
    steps: int,
    loss: Loss,
    clean: bool,
) -> AttackResult:
    del key
    gradient = jax.grad(lambda z: objective(f, loss, y)(z)[0])
    top = jnp.asarray(threat.upper, x.dtype)

    def step(z: Array, pace: Array) -> tuple[Array, None]:
        g = gradient(jnp.minimum(z, top))
        g = jnp.where(jnp.isfinite(g), g, jnp.zeros_like(g))
        return z + pace * (threat.extreme(x, g) - z), None

    paces = 2 / (jnp.arange(steps, dtype=x.dtype) + 2)
    z = threat.project(x, jax.lax.scan(step, x, paces)[0])
    return judge(f, threat, x, y, z, loss, forwards=steps, backwards=steps, clean=clean)


def frank_wolfe(threat: Wasserstein, *, steps: int = 40, loss: Loss = losses.margin) -> Attack:
    """Frank-Wolfe ascent: z <- z + 2 / (k + 2) (s - z), s the best point of the set for <g, s>.

    `s` comes from the exact linear oracle, so that every iterate is an average of images within the
    transport budget; the oracle knows no upper end of the box, gradients are taken at the clipped
    image, and one projection onto ball and box closes the attack. Where the box leaves room
    (color images) few steps suffice; on black-and-white images the projection gives up much of
    what was gained, and `growing` or `pgd` are stronger. Frank & Wolfe 1956; Wu, Wang & Yu 2020
    (arXiv:2008.02883), there with an entropic oracle that knows the box.

    Args:
      threat: `Wasserstein`. steps: gradients and oracle calls. loss: what to climb.

    Raises:
      TypeError: another threat. ValueError: steps < 1.
    """
    if not isinstance(threat, Wasserstein):
        raise TypeError(f"frank_wolfe needs a Wasserstein threat, got {type(threat).__name__}")
    checks.at_least("steps", steps, 1)
    return make_attack(_run, {"threat": threat}, steps=steps, loss=loss, clean=True)
