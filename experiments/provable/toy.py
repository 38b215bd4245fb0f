"""Robust classification in the plane: Wong's thesis, section 3.2.1."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrobust import checks, losses
from jaxrobust.duals.certificates import certify, robust_loss
from jaxrobust.threats import Linf
from jaxrobust.types import Array, Key, LogitsFn

SIZES = (2, 100, 100, 100, 100, 2)
EPSILON = 0.08
SPACING = 0.16
POINTS = 12
METHODS = ("wong_kolter",)
"""Bounds of the thesis."""
ENOUGH = 0.2
"""Loss below which a point needs no more training; with two classes log 2 is a tie."""

Params = list[tuple[Array, Array]]


class Fitted(NamedTuple):
    """A network trained on the points."""

    params: Params
    steps: int
    """Steps of Adam, until nothing was left to gain or patience ended."""
    error: float
    """% of the points misclassified."""
    robust_error: float
    """% of the points that are not certified at the radius trained for."""


def sample_points(seed: int, *, count: int = POINTS, spacing: float = SPACING) -> np.ndarray:
    """Points `[count, 2]` of the unit square at least `spacing` apart in linf, drawn in turn.

    ValueError where none fits any more.
    """
    rng = np.random.default_rng(seed)
    points: list[np.ndarray] = []
    for _ in range(10_000):
        if len(points) == count:
            return np.asarray(points, np.float32)
        drawn = rng.uniform(size=2)
        if all(np.abs(drawn - p).max() >= spacing for p in points):
            points.append(drawn)
    raise ValueError(
        f"found no place for {count} points at least {spacing} apart in the unit square; take "
        "fewer, or a smaller spacing"
    )


def random_network(key: Key, sizes: Sequence[int] = SIZES) -> Params:
    """Weights N(0, 1 / fan-in), biases N(0, 1): section 3.2.2."""
    return _drawn(key, sizes, jax.random.normal, 1.0)


def untrained_network(key: Key, sizes: Sequence[int] = SIZES) -> Params:
    """Weights and biases uniform up to 1 / sqrt(fan-in), as in the released code."""
    uniform = functools.partial(jax.random.uniform, minval=-1.0, maxval=1.0)
    return _drawn(key, sizes, uniform, None)


def _drawn(key: Key, sizes: Sequence[int], draw: object, spread: float | None) -> Params:
    layers = []
    for fan_in, width in itertools.pairwise(sizes):
        key, weight, bias = jax.random.split(key, 3)
        scale = fan_in**-0.5
        layers.append(
            (
                scale * draw(weight, (width, fan_in)),
                (scale if spread is None else spread) * draw(bias, (width,)),
            )
        )
    return layers


def logits_fn(params: Params) -> LogitsFn:
    """The ReLU network as a function of one point."""

    def f(x: Array) -> Array:
        for weight, bias in params[:-1]:
            x = jax.nn.relu(weight @ x + bias)
        weight, bias = params[-1]
        return weight @ x + bias

    return f


def fit(
    key: Key,
    points: np.ndarray,
    labels: np.ndarray,
    radius: float,
    *,
    robust: bool,
    steps: int,
    sizes: Sequence[int] = SIZES,
) -> Fitted:
    """Adam at rate 1e-3 on all points at once, on the clean loss or on its bound over the balls.

    `steps` at most; ends when the loss of every point is below `ENOUGH`. The radius grows to its
    full value over the first quarter of `steps`.
    """
    checks.at_least("steps", steps, 1)
    params = untrained_network(key, sizes)
    found, count = _fit(params, points, labels, radius, robust, steps)
    error, robust_error = _errors(found, points, labels, radius)
    return Fitted(found, int(count), 100 * float(error), 100 * float(robust_error))


@functools.partial(jax.jit, static_argnames=("robust", "steps"))
def _fit(
    params: Params, points: Array, labels: Array, radius: Array, robust: bool, steps: int
) -> tuple[Params, Array]:
    optimizer = optax.adam(1e-3)
    full = max(steps // 4, 1)

    def each(params: Params, radius: Array) -> Array:
        f = logits_fn(params)
        if robust:
            ball = Linf(radius)
            return jax.vmap(lambda x, y: robust_loss(f, x, y, ball, methods=METHODS))(
                points, labels
            )
        return jax.vmap(lambda x, y: losses.cross_entropy(f(x), y))(points, labels)

    def mean(params: Params, radius: Array) -> tuple[Array, Array]:
        losses_now = each(params, radius)
        return losses_now.mean(), losses_now.max()

    def unfinished(carry: tuple) -> Array:
        _, _, done, worst = carry
        return (done < steps) & ((worst > ENOUGH) | (done < full))

    def step(carry: tuple) -> tuple:
        params, state, done, _ = carry
        now = radius * jnp.minimum(1.0, (done + 1) / full)
        gradients, worst = jax.grad(mean, has_aux=True)(params, now)
        updates, state = optimizer.update(gradients, state)
        return optax.apply_updates(params, updates), state, done + 1, worst

    carry = (params, optimizer.init(params), jnp.int32(0), jnp.float32(jnp.inf))
    params, _, done, _ = jax.lax.while_loop(unfinished, step, carry)
    return params, done


@jax.jit
def _errors(params: Params, points: Array, labels: Array, radius: Array) -> tuple[Array, Array]:
    f = logits_fn(params)
    wrong = jnp.argmax(jax.vmap(f)(points), axis=-1) != labels
    ball = Linf(radius)
    proofs = jax.vmap(lambda x, y: certify(f, x, y, ball, methods=METHODS).certified)
    return wrong.mean(), (~proofs(points, labels)).mean()


@functools.partial(jax.jit, static_argnames=("side",))
def decision(params: Params, side: int) -> Array:
    """f_1 - f_0 on a grid `[side, side]` of the unit square, rows upward: positive is class 1."""
    line = jnp.linspace(0.0, 1.0, side)
    grid = jnp.stack(jnp.meshgrid(line, line), axis=-1)
    logits = jax.vmap(jax.vmap(logits_fn(params)))(grid)
    return logits[..., 1] - logits[..., 0]
