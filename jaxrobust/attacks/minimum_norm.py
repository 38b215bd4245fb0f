"""What minimum-norm attacks share: the closest adversarial point, and the search of a constant."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from jaxrobust import losses
from jaxrobust.attacks.ascend import fooled, judge
from jaxrobust.threats.box import numbers
from jaxrobust.types import Array, AttackResult, BoxedBall, LogitsFn, PyTree, Scalar

State = TypeVar("State", bound=PyTree)


class Nearest(NamedTuple):
    """The adversarial point closest to the clean example so far, and its distance.

    The distance is infinite, and the point the clean example, while none was found.
    """

    z: Array
    norm: Array

    @property
    def found(self) -> Array:
        """bool: some adversarial point was seen."""
        return self.norm < jnp.inf


def unmoved(x: Array, logits: Array, y: Array) -> Nearest:
    """The record at the start: the clean example at distance 0 if it is misclassified already."""
    zero = jnp.zeros((), x.dtype)
    return Nearest(x, jnp.where(fooled(logits, y), zero, jnp.inf))


def closer(record: Nearest, threat: BoxedBall, x: Array, z: Array, fools: Array) -> Nearest:
    """`record` after seeing `z`: replaced if `z` fools the model and is strictly closer."""
    norm = threat.size(x, z)
    take = fools & (norm < record.norm)
    return Nearest(jnp.where(take, z, record.z), jnp.where(take, norm, record.norm))


def nearest_of(records: Nearest) -> Nearest:
    """The closest of records stacked on a leading axis."""
    best = jnp.argmin(records.norm)
    return jax.tree.map(lambda a: a[best], records)


def conclude(
    f: LogitsFn,
    threat: BoxedBall,
    x: Array,
    y: Array,
    record: Nearest,
    *,
    forwards: Array | int,
    backwards: Array | int,
) -> AttackResult:
    """Judges the closest adversarial point; its margin is reported as the loss.

    The point may lie outside the threat set: then `inside` and `success` are False and `norm`
    says how large a radius it would take. A set of radius 0 has one point only, the clean one.
    """
    radius, _, _ = numbers(threat, x, one_radius="minimum-norm search")
    z = jnp.where(radius > 0, record.z, x)
    return judge(f, threat, x, y, z, losses.margin, forwards=forwards, backwards=backwards)


def penalized(
    f: LogitsFn, x: Array, y: Array, z: Array, c: Array, confidence: Array
) -> tuple[Array, Array]:
    """||z - x||_2^2 + c max(confidence - margin, 0) and the margin, C&W's trade-off at `z`."""
    margin = losses.margin(f(z), y)
    return jnp.sum((z - x) ** 2) + c * jnp.maximum(confidence - margin, 0), margin


class Constant(NamedTuple):
    """The weight `value` of the attack's loss against the distance, with the bracket so far."""

    value: Array
    low: Array
    high: Array


def refine(c: Constant, succeeded: Array) -> Constant:
    """Bisects the bracket; until some value has succeeded, multiplies by 10."""
    low = jnp.where(succeeded, c.low, c.value)
    high = jnp.where(succeeded, c.value, c.high)
    return Constant(jnp.where(high < jnp.inf, (low + high) / 2, 10 * c.value), low, high)


Attempt = Callable[[Array, Nearest], tuple[Nearest, Array, Array]]
"""(constant, record) -> (record, whether this constant succeeded, passes spent)."""


def search_constant(
    attempt: Attempt, record: Nearest, *, first: Scalar, searches: int
) -> tuple[Nearest, Array]:
    """Searches the least constant that succeeds, from `first`.

    Carlini & Wagner 2017 (arXiv:1608.04644), as in their released code. A success halves the
    bracket from above; a failure from below, or multiplies by 10 while nothing has succeeded.
    `searches` attempts (static), all of which add to the record. Returns it with the passes spent.
    """

    def search(carry: tuple, _: None) -> tuple[tuple, None]:
        record, c, passes = carry
        record, succeeded, spent = attempt(c.value, record)
        return (record, refine(c, succeeded), passes + spent), None

    low = jnp.zeros_like(record.norm)
    c = Constant(jnp.asarray(first, low.dtype), low, jnp.full_like(low, jnp.inf))
    (record, _, passes), _ = jax.lax.scan(
        search, (record, c, jnp.zeros((), jnp.int32)), length=searches
    )
    return record, passes


def until_stalled(
    step: Callable[[State, Array], tuple[State, Array]],
    state: State,
    *,
    steps: int,
    earliest: Array | int = 0,
) -> tuple[State, Array]:
    """Repeats `state, value = step(state, k)` until the value to minimize stops falling.

    Carlini & Wagner's early abort, per example: stops after a tenth of `steps` in which the value
    fell by less than 1e-4 of itself, but not before step `earliest`, or after all `steps`.
    Returns the state and the count.
    """
    window = max(steps // 10, 1)

    def proceed(carry: tuple) -> Array:
        _, k, _, stalled = carry
        return (k < steps) & ~stalled

    def advance(carry: tuple) -> tuple:
        state, k, reference, _ = carry
        state, value = step(state, k)
        check = k % window == 0
        stalled = check & (k >= earliest) & (value > 0.9999 * reference)
        return state, k + 1, jnp.where(check, value, reference), stalled

    k = jnp.zeros((), jnp.int32)
    unbounded = jnp.full((), jnp.inf, jax.eval_shape(step, state, k)[1].dtype)
    start = (state, k, unbounded, jnp.zeros((), bool))
    state, count, _, _ = jax.lax.while_loop(proceed, advance, start)
    return state, count
