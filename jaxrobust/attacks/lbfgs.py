"""The box-constrained L-BFGS attack, the first attack on neural networks."""

from __future__ import annotations

from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from jaxrobust import checks, losses
from jaxrobust.attacks.ascend import fooled
from jaxrobust.attacks.first_order import stacked
from jaxrobust.attacks.linearized_boundary import check_norm
from jaxrobust.attacks.minimum_norm import (
    Nearest,
    closer,
    conclude,
    nearest_of,
    search_constant,
    unmoved,
)
from jaxrobust.attacks.wrappers import check_chunk, over, rivals
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


class Descent(NamedTuple):
    """A point, not yet clipped to the box, the objective and optimizer there, what was found."""

    u: Array
    value: Array
    gradient: Array
    state: PyTree
    record: Nearest
    succeeded: Array
    passes: Array


class LBFGS(Attack):
    """What `lbfgs` makes; see there."""

    threat: BoxedBall
    first: Scalar
    steps: int = static()
    searches: int = static()
    targets: int | None = static()
    chunk: int | None = static()

    def __call__(self, key: Key, f: LogitsFn, x: Array, y: Array) -> AttackResult:
        del key
        _, lower, upper = numbers(self.threat, x, one_radius="lbfgs")
        optimizer = optax.lbfgs()

        def search(target: Array) -> tuple[Nearest, Array]:
            def attempt(c: Array, record: Nearest) -> tuple[Nearest, Array, Array]:
                def value(u: Array) -> Array:
                    z = jnp.clip(u, lower, upper)
                    # The last term makes the unconstrained minimum that over the box: beyond a face
                    # the rest is constant.
                    loss = losses.cross_entropy(f(z), target)
                    return jnp.sum((z - x) ** 2) + c * loss + jnp.sum((u - z) ** 2)

                def step(now: Descent, _: None) -> tuple[Descent, None]:
                    g = jnp.where(jnp.isfinite(now.gradient), now.gradient, 0)
                    with jax.numpy_dtype_promotion("standard"):  # Optax mixes widths of integers.
                        updates, state = optimizer.update(
                            g, now.state, now.u, value=now.value, grad=g, value_fn=value
                        )
                    move = cast(Array, updates)
                    u = now.u + jnp.where(jnp.isfinite(move), move, 0)
                    z = jnp.clip(u, lower, upper)
                    fools = fooled(f(z), y)
                    # The line search has evaluated the point it chose.
                    here, g, tries = (
                        optax.tree_utils.tree_get(state, name)
                        for name in ("value", "grad", "num_linesearch_steps")
                    )
                    record = closer(now.record, self.threat, x, z, fools)
                    passes = now.passes + tries.astype(jnp.int32)
                    return Descent(u, here, g, state, record, now.succeeded | fools, passes), None

                here, g = jax.value_and_grad(value)(x)
                none, one = jnp.zeros((), bool), jnp.ones((), jnp.int32)
                start = Descent(x, here, g, optimizer.init(x), record, none, one)
                end, _ = jax.lax.scan(step, start, length=self.steps)
                return end.record, end.succeeded, end.passes

            none = Nearest(x, jnp.full((), jnp.inf, x.dtype))
            return search_constant(attempt, none, first=self.first, searches=self.searches)

        logits = f(x)
        goals = rivals(logits, y, self.targets)
        found, passes = over(search, (goals,), chunk=self.chunk)
        clean, found = unmoved(x, logits, y), nearest_of(found)
        record = jax.tree.map(lambda a, b: jnp.where(clean.found, a, b), clean, found)
        backwards = jnp.sum(passes)
        forwards = 1 + backwards + goals.size * self.searches * self.steps
        return conclude(f, self.threat, x, y, record, forwards=forwards, backwards=backwards)


def lbfgs(
    threat: BoxedBall,
    *,
    steps: int = 30,
    searches: int = 12,
    first: Scalar = 1e-2,
    targets: int | None = 1,
    chunk: int | None = None,
) -> LBFGS:
    """L-BFGS: minimizes ||z - x||_2^2 + c CE(f(z), t) over the box, with the least c that works.

    c is bisected once an attempt succeeded and multiplied by 10 before. Szegedy et al. 2014
    (arXiv:1312.6199), section 4.1, where the constant is the distance's: 1 / c here. Optax's
    L-BFGS with its zoom line search knows no box: it minimizes the objective at the clipped point
    plus the squared distance to that point, which has the same minimum.

    Returns the misclassified point closest in the threat's norm over all iterates (into whatever
    class), inside the threat set or not; the clean point if there is none, if it is misclassified
    already, or if the radius is 0. What is minimized is the l2 norm for every threat. The search
    does not depend on the radius, which decides `success`. Passes of the line search are counted
    as one example spends them; under `vmap` both branches of Optax's line search are computed.
    Not meant to be differentiated.

    Args:
      threat: `L2`; `Linf` and `L1` choose and judge the point in their own norm.
      steps: of each attempt, static.
      searches: attempts per target, static.
      first: c at first.
      targets: how many wrong classes of largest clean logit to aim at (None: all K - 1).
      chunk: how many targets run side by side (default all); memory only.

    Raises:
      TypeError: another threat.
      ValueError: a count below 1, or `first` not positive.
    """
    check_norm(threat, "lbfgs")
    checks.at_least("steps", steps, 1)
    checks.at_least("searches", searches, 1)
    checks.positive("first", first)
    if targets is not None:
        checks.at_least("targets", targets, 1)
    check_chunk(chunk)
    return LBFGS(
        threat=threat,
        **stacked({"first": first}, threat),
        steps=steps,
        searches=searches,
        targets=targets,
        chunk=chunk,
    )
