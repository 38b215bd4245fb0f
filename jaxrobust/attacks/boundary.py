"""Boundary attack: a random walk along the decision boundary toward the clean example."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust import checks, losses
from jaxrobust.attacks.ascend import judge, objective
from jaxrobust.attacks.first_order import stacked
from jaxrobust.attacks.noise import finite_box, first_fooled
from jaxrobust.threats import L2
from jaxrobust.threats.box import numbers
from jaxrobust.types import Array, Attack, AttackResult, Key, LogitsFn, Scalar, static

STARTS = 100
"""Random images tried as a start."""
HALVINGS = 12
"""Bisections between the start and the clean example."""
STRIDE = 5
"""Every so many steps the orthogonal step is queried by itself as well."""
TRIALS = 20
"""Outcomes of such queries after which a step size may change."""
FACTOR = 1.5
"""By how much a step shrinks or grows."""
CONVERGED = 1e-7
"""Relative step toward the clean example below which the walk has arrived."""

Decision = Callable[[Array], Array]
"""A point -> whether it is misclassified."""


class _Rate(NamedTuple):
    """How often a kind of step succeeded since its size was last reviewed."""

    tried: Array
    succeeded: Array

    def note(self, tried: Array, success: Array) -> _Rate:
        counted = tried.astype(jnp.int32)
        return _Rate(self.tried + counted, self.succeeded + counted * success.astype(jnp.int32))

    def review(self, low: float, high: float) -> tuple[Array, _Rate]:
        """The factor for the step size, and the counts, which start over after `TRIALS`."""
        full = self.tried >= TRIALS
        share = self.succeeded.astype(jnp.float32) / jnp.maximum(self.tried, 1).astype(jnp.float32)
        grown = jnp.where(share > high, FACTOR, jnp.where(share < low, 1 / FACTOR, 1.0))
        return jnp.where(full, grown, 1.0), _Rate(*(jnp.where(full, 0, n) for n in self))


class _Walk(NamedTuple):
    """Where the walk is."""

    z: Array
    orthogonal: Array
    """Length of the orthogonal step, relative to the distance from the clean example."""
    inward: Array
    """Length of the step toward the clean example, likewise."""
    orthogonal_rate: _Rate
    inward_rate: _Rate
    rounds: Array


def _norm(v: Array) -> Array:
    return jnp.sqrt(jnp.sum(v**2))


def over(v: Array, length: Array) -> Array:
    return v / jnp.where(length == 0, 1, length)


def _candidates(key: Key, threat: L2, x: Array, walk: _Walk) -> tuple[Array, Array]:
    """A point on the sphere around `x` through the current one, and one a little closer to `x`."""
    _, lower, upper = numbers(threat, x, one_radius="boundary")
    home = x - walk.z
    distance = _norm(home)
    inward = over(home, distance)
    noise = jax.random.normal(key, x.shape, x.dtype)
    noise = noise - jnp.sum(noise * inward) * inward
    noise = over(noise, _norm(noise)) * walk.orthogonal * distance
    onto_sphere = 1 / jnp.sqrt(1 + walk.orthogonal**2)
    around = jnp.clip(x + onto_sphere * (noise - home), lower, upper)
    # The box may have moved the point off the sphere: the inward step makes up for that.
    left = x - around
    length = jnp.maximum(walk.inward * distance + _norm(left) - distance, 0)
    return around, jnp.clip(around + over(left, _norm(left)) * length, lower, upper)


def _start(key: Key, f: LogitsFn, threat: L2, x: Array, y: Array) -> tuple[Array, Array]:
    """A misclassified point near the boundary, or `x` where none was found; and the queries."""
    _, lower, upper = numbers(threat, x, one_radius="boundary")
    evaluate = objective(f, losses.margin, y)

    def draw(count: Array) -> Array:
        now = jax.random.fold_in(key, count)
        noise = jax.random.uniform(now, x.shape, x.dtype, minval=lower, maxval=upper)
        # Noise of full contrast fools models that take a gray image for nothing in particular.
        extreme = jnp.where(noise < (lower + upper) / 2, lower, upper)
        return jnp.where(count % 2 == 0, noise, extreme)

    found, count = first_fooled(evaluate, x, draw, STARTS)
    far = jnp.where(found.fooled, found.z, x)

    def blend(share: Array) -> Array:
        return share * far + (1 - share) * x

    def halve(_: int, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        middle = (low + high) / 2
        wrong = evaluate(blend(middle))[1]
        return jnp.where(wrong, low, middle), jnp.where(wrong, middle, high)

    ends = jnp.zeros((), x.dtype), jnp.ones((), x.dtype)
    _, high = jax.lax.fori_loop(0, HALVINGS, halve, ends)
    # A start that is the clean point itself stays exactly that: blending would round it.
    return jnp.where(jnp.all(far == x), x, blend(high)), count + 1 + HALVINGS


class Boundary(Attack):
    """What `boundary` makes; see there."""

    threat: L2
    orthogonal: Scalar
    inward: Scalar
    steps: int = static()

    def __call__(self, key: Key, f: LogitsFn, x: Array, y: Array) -> AttackResult:
        start_key, walk_key = jax.random.split(key)
        evaluate = objective(f, losses.margin, y)

        def proceed(walk: _Walk) -> Array:
            moving = (walk.inward >= CONVERGED) & jnp.any(walk.z != x)
            return (walk.rounds < -(-self.steps // STRIDE)) & moving

        def step(walk: _Walk, key: Key) -> tuple[_Walk, tuple[Array, Array]]:
            around, closer = _candidates(key, self.threat, x, walk)
            wrong = evaluate(closer)[1]
            nearer = _norm(closer - x) < _norm(walk.z - x)
            return walk._replace(z=jnp.where(wrong & nearer, closer, walk.z)), (around, wrong)

        def advance(walk: _Walk) -> _Walk:
            keys = jax.random.split(jax.random.fold_in(walk_key, walk.rounds), STRIDE)
            walk, (around, arrived) = step(walk, keys[0])
            stayed = evaluate(around)[1]
            walk, _ = jax.lax.scan(step, walk, keys[1:])
            both, outer = walk.orthogonal_rate.note(jnp.ones((), bool), stayed).review(0.2, 0.5)
            single, inner = walk.inward_rate.note(stayed, arrived).review(0.1, 0.25)
            return walk._replace(
                orthogonal=walk.orthogonal * both.astype(x.dtype),
                inward=walk.inward * (both * single).astype(x.dtype),
                orthogonal_rate=outer,
                inward_rate=inner,
                rounds=walk.rounds + 1,
            )

        z, spent = _start(start_key, f, self.threat, x, y)
        none = _Rate(jnp.int32(0), jnp.int32(0))
        across, along = (jnp.asarray(v, x.dtype) for v in (self.orthogonal, self.inward))
        walk = jax.lax.while_loop(
            proceed, advance, _Walk(z, across, along, none, none, jnp.int32(0))
        )
        forwards = spent + walk.rounds * (STRIDE + 1)
        return judge(f, self.threat, x, y, walk.z, losses.margin, forwards=forwards, backwards=0)


def boundary(
    threat: L2, *, steps: int = 5000, orthogonal: Scalar = 0.01, inward: Scalar = 0.01
) -> Boundary:
    """Boundary attack: the smallest l2 perturbation a walk along the decision boundary finds.

    Uses the predicted class only. From a random misclassified image, blended toward the clean
    one up to the boundary, each step moves at random around the sphere about the clean example,
    then toward it, and is kept if still misclassified and nearer. Brendel et al. 2018,
    "Decision-based adversarial attacks", Algorithm 1; step sizes as in Foolbox 3.

    The radius decides `success` only; the walk does not stop there. An example misclassified
    before the attack returns itself, and so does one for which none of 100 random images (uniform
    noise and black-and-white noise by turns) is misclassified: a failure.

    Both step sizes grow by 1.5 where over half of the orthogonal steps stay misclassified, and
    shrink below a fifth; the inward one also grows above a quarter and shrinks below a tenth.
    Deviation from the authors' code: rates are taken over blocks of 20 queries, made every 5th
    step, in place of 100 and 30 made every 10th, so that sizes adapt within a few hundred steps.
    Not differentiable.

    Args:
      threat: `L2` with a finite box.
      steps: of the walk, rounded up to a multiple of 5; a sixth query goes with every 5.
      orthogonal, inward: first step sizes, relative to the distance from the clean example.

    Raises:
      TypeError: another threat.
      ValueError: steps < 1, a size that is not positive, or a box without finite bounds.
    """
    if not isinstance(threat, L2):
        raise TypeError(f"boundary needs an L2 threat, got {type(threat).__name__}")
    finite_box("boundary", threat)
    checks.at_least("steps", steps, 1)
    sizes = {"orthogonal": orthogonal, "inward": inward}
    for name, value in sizes.items():
        checks.positive(name, value)
    return Boundary(threat=threat, **stacked(sizes, threat), steps=steps)
