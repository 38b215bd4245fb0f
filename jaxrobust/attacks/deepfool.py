"""DeepFool: the shortest move onto the nearest linearized boundary, until the label changes."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrobust import checks
from jaxrobust.attacks.ascend import fooled
from jaxrobust.attacks.first_order import stacked
from jaxrobust.attacks.linearized_boundary import check_norm, nearest, shortest_move
from jaxrobust.attacks.minimum_norm import closer, conclude, unmoved
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


class DeepFool(Attack):
    """What `deepfool` makes; see there."""

    threat: BoxedBall
    overshoot: Scalar
    steps: int = static()

    def __call__(self, key: Key, f: LogitsFn, x: Array, y: Array) -> AttackResult:
        del key
        _, lower, upper = numbers(self.threat, x, one_radius="DeepFool")
        stretch = 1 + jnp.asarray(self.overshoot, x.dtype)
        linearize = nearest(f, self.threat, y)

        def proceed(carry: tuple) -> Array:
            _, _, record, count = carry
            return (count < self.steps) & ~record.found

        def step(carry: tuple) -> tuple:
            total, z, record, count = carry
            value, w = linearize(z)
            total = total + shortest_move(self.threat, z, w, -value)
            z = jnp.clip(x + stretch * total, lower, upper)
            return total, z, closer(record, self.threat, x, z, fooled(f(z), y)), count + 1

        logits = f(x)
        start = (jnp.zeros_like(x), x, unmoved(x, logits, y), jnp.zeros((), jnp.int32))
        _, _, record, count = jax.lax.while_loop(proceed, step, start)
        forwards, backwards = 1 + 2 * count, logits.size * count
        return conclude(f, self.threat, x, y, record, forwards=forwards, backwards=backwards)


def deepfool(threat: BoxedBall, *, steps: int = 50, overshoot: Scalar = 0.02) -> DeepFool:
    """DeepFool (linf, l2, l1): r <- r + the shortest move from z onto the nearest boundary.

    z = clip(x + (1 + overshoot) r), until z is misclassified; the boundaries are those of the
    classes linearized at z (`linearized_boundary.nearest`). Moosavi-Dezfooli et al. 2016
    (arXiv:1511.04599), Algorithm 2 and section 3.3 for norms other than l2. A fast upper bound
    on the least perturbation, on a linear model `overshoot` above it; FAB refines it.

    Returns the first misclassified point, inside the threat set or not, and the clean point if
    there is none within `steps`, if it is misclassified already, or if the radius is 0. Each step
    costs 2 forward and K backward passes; an example stops on its own. Not meant to be
    differentiated.

    Differences from the paper: each move is the shortest one inside the pixel box (the paper
    has no box, and clipping its moves would fall short of the boundary), and boundaries are
    linearized at the overshot point, as the released code does.

    Args:
      threat: `Linf`, `L2` or `L1`.
      steps: at most so many, static.
      overshoot: past the boundary.

    Raises:
      TypeError: another threat.
      ValueError: steps < 1, or overshoot negative or not finite.
    """
    check_norm(threat, "deepfool")
    checks.at_least("steps", steps, 1)
    checks.nonnegative("overshoot", overshoot)
    return DeepFool(threat=threat, **stacked({"overshoot": overshoot}, threat), steps=steps)
