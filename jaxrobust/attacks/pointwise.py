"""Pointwise attack: as few changed coordinates as a greedy search finds."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust import checks, losses
from jaxrobust.attacks.ascend import judge, objective
from jaxrobust.attacks.noise import finite_box, first_fooled, flipped
from jaxrobust.threats.box import numbers
from jaxrobust.types import Array, Attack, AttackResult, BoxedBall, Key, LogitsFn, static

STARTS = 100
"""Salt-and-pepper images tried as a start, of 1/100, 2/100, ..., 1 of all coordinates."""
HALVINGS = 10
"""Bisections of one coordinate."""

Visit = Callable[[Array, Array], Array]
"""(flat point `[n]`, a coordinate's mask `[n]`) -> the point with that coordinate reconsidered."""


class _Search(NamedTuple):
    """Where a phase of the search is."""

    z: Array
    improved: Array
    passes: Array
    visited: Array


def _phase(key: Key, x: Array, z: Array, visit: Visit, passes: int) -> tuple[Array, Array]:
    """Visits all changed coordinates in random order, until a pass changes nothing.

    Returns the point and how many coordinates were visited, over all passes.
    """
    size = x.size

    def sweep(search: _Search) -> _Search:
        key_now = jax.random.fold_in(key, search.passes)
        changed = search.z != x
        # Changed coordinates come first, so that the others cost no query.
        lot = jnp.where(changed, jax.random.uniform(key_now, (size,), jnp.float32), 2)
        order = jnp.argsort(lot)
        count = jnp.sum(changed, dtype=jnp.int32)

        def proceed(state: tuple[Array, Array]) -> Array:
            return state[0] < count

        def one(state: tuple[Array, Array]) -> tuple[Array, Array]:
            i, z = state
            return i + 1, visit(z, jnp.arange(size) == order[i])

        _, moved = jax.lax.while_loop(proceed, one, (jnp.int32(0), search.z))
        improved = jnp.any(moved != search.z)
        return _Search(moved, improved, search.passes + 1, search.visited + count)

    def proceed(search: _Search) -> Array:
        return search.improved & (search.passes < passes)

    first = _Search(z, jnp.any(z != x), jnp.int32(0), jnp.int32(0))
    last = jax.lax.while_loop(proceed, sweep, first)
    return last.z, last.visited


class Pointwise(Attack):
    """What `pointwise` makes; see there."""

    threat: BoxedBall
    passes: int = static()

    def __call__(self, key: Key, f: LogitsFn, x: Array, y: Array) -> AttackResult:
        start_key, reset_key, refine_key = jax.random.split(key, 3)
        flat = x.reshape(-1)
        _, *ends = numbers(self.threat, x, one_radius="pointwise")
        lower, upper = (jnp.broadcast_to(end, x.shape).reshape(-1) for end in ends)
        evaluate = objective(lambda z: f(z.reshape(x.shape)), losses.margin, y)

        def noisy(count: Array) -> Array:
            share = (count + 1).astype(x.dtype) / STARTS
            return flipped(jax.random.fold_in(start_key, count), flat, share, lower, upper)

        def reset(z: Array, here: Array) -> Array:
            restored = jnp.where(here, flat, z)
            return jnp.where(evaluate(restored)[1], restored, z)

        def refine(z: Array, here: Array) -> Array:
            def halve(_: int, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
                right, wrong = bracket
                middle = (right + wrong) / 2
                fools = evaluate(middle)[1]
                return jnp.where(fools, right, middle), jnp.where(fools, middle, wrong)

            restored = jnp.where(here, flat, z)
            _, nearest = jax.lax.fori_loop(0, HALVINGS, halve, (restored, z))
            return jnp.where(evaluate(restored)[1], restored, nearest)

        start, drawn = first_fooled(evaluate, flat, noisy, STARTS)
        z = jnp.where(start.fooled, start.z, flat)
        z, resets = _phase(reset_key, flat, z, reset, self.passes)
        z, refined = _phase(refine_key, flat, z, refine, self.passes)
        forwards = drawn + 1 + resets + refined * (HALVINGS + 1)
        result = z.reshape(x.shape)
        return judge(f, self.threat, x, y, result, losses.margin, forwards=forwards, backwards=0)


def pointwise(threat: BoxedBall, *, passes: int = 10) -> Pointwise:
    """Pointwise attack: resets coordinates of a noisy image while it stays misclassified.

    Uses the predicted class only, and seeks few changed coordinates (l0). From salt-and-pepper
    noise on as few coordinates as fool the model, it visits the changed coordinates in random order
    and sets each back to its clean value if the point stays misclassified, until a pass changes
    nothing; then bisects each remaining one toward its clean value, likewise. Schott et al. 2019,
    "Towards the first adversarially robust neural network model on MNIST".

    The threat decides `success` and `norm` only. An example misclassified before the attack
    returns itself, and so does one that no start fools (a failure). Deviation from the authors'
    code: a pass continues after a reset in place of starting over, which needs n queries in
    place of n^2. Not differentiable.

    Args:
      threat: any set with a finite pixel box, such as `L1`.
      passes: at most, of each phase; a pass costs one query per changed coordinate, 11 in the
        second phase.

    Raises:
      ValueError: passes < 1, or a box without finite bounds.
    """
    finite_box("pointwise", threat)
    checks.at_least("passes", passes, 1)
    return Pointwise(threat=threat, passes=passes)
