"""The one loop: projected ascent on a threat set, driven by any Optax transformation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from jaxrobust import losses
from jaxrobust.threats.box import in_box
from jaxrobust.threats.warm import measure
from jaxrobust.types import Array, AttackResult, LogitsFn, Loss, PyTree, ThreatModel

Objective = Callable[[Array], tuple[Array, Array]]
"""A point `z` -> (value to climb, whether `z` already fools the model)."""

Stop = Callable[[Array, Array], Array]
"""(point `z`, gradient of the objective there) -> whether this example stops at `z`."""


class Point(NamedTuple):
    """A point with its objective value and whether it fools the model."""

    z: Array
    value: Array
    fooled: Array


class Ascent(NamedTuple):
    """The outcome of `ascend`: last and best point, and the gradient evaluations spent."""

    last: Array
    best: Point
    gradients: Array


class _Walk(NamedTuple):
    """Where `ascend` is."""

    z: Array
    state: PyTree
    best: Point
    count: Array
    stopped: Array


def fooled(logits: Array, y: Array) -> Array:
    """Whether the label's logit is not strictly the largest; a tie or a NaN counts as fooled.

    Args:
      logits: `[K]`.
      y: the label, an integer scalar.

    Returns:
      A bool scalar.
    """
    return ~(losses.margin(logits, y) < 0)


def objective(f: LogitsFn, loss: Loss, y: Array) -> Objective:
    """The objective of an untargeted attack.

    Args:
      f: the classifier of one example.
      loss: (logits `[K]`, label) -> the scalar to maximize.
      y: the label, an integer scalar.

    Returns:
      A function of a point `z` `[...]` that returns two scalars from one forward pass: the loss
      `loss(f(z), y)`, and a bool that tells whether `z` fools the model, see `fooled`.

    Raises:
      ValueError: the labels of a batch.
    """
    if jnp.ndim(y):
        raise ValueError(
            f"an attack is about one example, whose label is a scalar; got labels {jnp.shape(y)}: "
            "lift it over a batch with attacks.batched(attack, key, f, x, y)"
        )

    def evaluate(z: Array) -> tuple[Array, Array]:
        logits = f(z)
        return loss(logits, y), fooled(logits, y)

    return evaluate


def better(a: Point, b: Point) -> Point:
    """The point that fools, then the one of higher value; `a` unless `b` is strictly better."""
    b = b._replace(value=jnp.where(jnp.isnan(b.value), jnp.inf, b.value))
    take = jnp.where(a.fooled == b.fooled, b.value > a.value, b.fooled)
    return jax.tree.map(lambda old, new: jnp.where(take, new, old), a, b)


def ascend(
    objective: Objective,
    threat: ThreatModel,
    x: Array,
    start: Array,
    optimizer: optax.GradientTransformation,
    *,
    steps: int | Array,
    stop: Stop | None = None,
) -> Ascent:
    """Maximizes `objective` over the threat set around `x` by `steps` projected steps.

    z <- P(z + update), where `optimizer` sees the gradient of -objective (so that every Optax
    optimizer ascends) with `z` as its parameters. A `lax.scan`; with `stop`, a `while_loop` in
    which the example rests at the first point where `stop(z, gradient)` holds. The best point is
    taken over the start, every iterate and the last point; one that fools beats one that does not.
    Non-finite gradient entries count as zero: they give no direction.

    Not differentiable as a `while_loop`; otherwise reverse-mode differentiable.

    Args:
      objective: point -> (value, fooled), two scalars; see `attacks.objective`.
      threat: the set around `x`.
      x: the clean example, `[...]`.
      start: the first iterate, `[...]` as `x` and inside the set.
      optimizer: makes the update of a step from its gradient.
      steps: number of steps; an array where it is known at run time only (a `while_loop` then).
      stop: (point, gradient of the objective there) -> bool scalar.

    Returns:
      An `Ascent`: `last`, the last point `[...]`; `best`, the best one, a `Point` of `z` `[...]`,
      its objective `value` and the bool `fooled`, both scalars; and `gradients`, an int32 scalar,
      the gradients taken. One more evaluation of the objective, at the last point, is not counted.
    """
    gradient = jax.value_and_grad(objective, has_aux=True)

    def step(walk: _Walk) -> _Walk:
        (value, fools), g = gradient(walk.z)
        g = jnp.where(jnp.isfinite(g), g, jnp.zeros_like(g))
        updates, state = optimizer.update(-g, walk.state, walk.z)
        z = threat.project(x, cast(Array, optax.apply_updates(walk.z, updates)))
        stopped = walk.stopped
        if stop is not None:
            stopped = stop(walk.z, g)
            z = jnp.where(stopped, walk.z, z)
        best = better(walk.best, Point(walk.z, value, fools))
        return _Walk(z, state, best, walk.count + 1, stopped)

    dtype = jax.eval_shape(objective, start)[0].dtype
    no = jnp.zeros((), bool)
    worst = Point(start, jnp.full((), -jnp.inf, dtype), no)
    walk = _Walk(start, optimizer.init(start), worst, jnp.int32(0), no)
    if stop is None and not isinstance(steps, jax.Array):
        walk, _ = jax.lax.scan(lambda walk, _: (step(walk), None), walk, length=steps)
    else:
        walk = jax.lax.while_loop(lambda w: (w.count < steps) & ~w.stopped, step, walk)
    z = walk.z
    return Ascent(z, better(walk.best, Point(z, *objective(z))), walk.count)


def judge(
    f: LogitsFn,
    threat: ThreatModel,
    x: Array,
    y: Array,
    z: Array,
    loss: Loss,
    *,
    forwards: Array | int,
    backwards: Array | int,
    clean: bool = False,
) -> AttackResult:
    """The evidence for point `z` on a fresh prediction, whose forward pass joins the cost.

    With `clean` the clean example is a candidate as well, at one forward pass more: it is the
    result where the model errs on it and `z` is no success. Evaluation wants this of an attack
    that may leave such an example unfound, as one that starts at a random point; training does
    not, see `types.Attack.bare`.

    Args:
      f: the classifier of one example.
      threat: the set around `x`.
      x: the clean example, `[...]`.
      y: the label, an integer scalar.
      z: the point to judge, `[...]` as `x`.
      loss: (logits `[K]`, label) -> the attack's objective, a scalar.
      forwards: the forward passes spent so far, an integer scalar.
      backwards: the backward passes spent so far, an integer scalar.
      clean: whether the clean example is a candidate.

    Returns:
      An `AttackResult` of the point `x` `[...]` and of scalars: `success` and `inside`, bool;
      `loss`, the objective there; `margin` in units of the logits; `norm`, the distance from the
      clean example in the threat's norm; `forwards` and `backwards`, int32, with the passes of this
      call.
    """
    logits = f(z)
    inside, norm = measure(threat, x, z)
    found = AttackResult(
        x=z,
        success=inside & fooled(logits, y),
        inside=inside,
        loss=loss(logits, y),
        margin=losses.margin(logits, y),
        norm=norm,
        forwards=jnp.asarray(forwards + 1 + int(clean), jnp.int32),
        backwards=jnp.asarray(backwards, jnp.int32),
    )
    if not clean:
        return found
    logits = f(x)
    inside = _holds_center(threat, x)
    unmoved = found._replace(
        x=x,
        success=inside & fooled(logits, y),
        inside=inside,
        loss=loss(logits, y),
        margin=losses.margin(logits, y),
        norm=jnp.zeros_like(norm),
    )
    take = unmoved.success & ~found.success
    return jax.tree.map(lambda new, old: jnp.where(take, new, old), unmoved, found)


def _holds_center(threat: Any, x: Array) -> Array:
    """Whether `x` lies in the set around it: in the box, whatever the ball and its search."""
    if not (hasattr(threat, "lower") and hasattr(threat, "upper")):
        return threat.contains(x, x)
    return in_box(x, jnp.asarray(threat.lower, x.dtype), jnp.asarray(threat.upper, x.dtype))
