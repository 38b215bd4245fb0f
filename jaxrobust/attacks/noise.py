"""Random noise of growing size: the weakest attacks, and where the decision-based ones start."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import checks, losses
from jaxrobust.attacks.ascend import Objective, Point, better, judge, objective
from jaxrobust.threats import Wasserstein
from jaxrobust.types import Array, Attack, AttackResult, BoxedBall, Key, LogitsFn, static

Draw = Callable[[Key, BoxedBall, Array, Array], Array]
"""(key, threat, clean example, amplitude in [0, 1]) -> a noisy point of the set."""


def _gaussian(key: Key, threat: BoxedBall, x: Array, amplitude: Array) -> Array:
    return _scaled(threat, x, jax.random.normal(key, x.shape, x.dtype), amplitude)


def _uniform(key: Key, threat: BoxedBall, x: Array, amplitude: Array) -> Array:
    noise = jax.random.uniform(key, x.shape, x.dtype, minval=-1, maxval=1)
    return _scaled(threat, x, noise, amplitude)


def _scaled(threat: BoxedBall, x: Array, noise: Array, amplitude: Array) -> Array:
    """`x` plus noise as large as the share `amplitude` of the radius, in the threat's norm."""
    radius = jnp.asarray(threat.radius, x.dtype)
    if radius.ndim:
        # sizes are in units of the radii
        noise, radius = radius * noise, jnp.ones_like(amplitude)
    length = threat.size(jnp.zeros_like(noise), noise)
    unit = noise / jnp.where(length == 0, 1, length)
    return threat.project(x, x + amplitude * radius * unit)


def flipped(key: Key, x: Array, share: Array, lower: Array, upper: Array) -> Array:
    """Salt and pepper: each coordinate is set to `lower` or `upper` with probability `share`."""
    draw = jax.random.uniform(key, x.shape, x.dtype)
    extreme = jnp.where(draw < share / 2, lower, upper)
    return jnp.where(draw < share, extreme, x)


def _salt_and_pepper(key: Key, threat: BoxedBall, x: Array, amplitude: Array) -> Array:
    lower, upper = (jnp.asarray(v, x.dtype) for v in (threat.lower, threat.upper))
    return threat.project(x, flipped(key, x, amplitude, lower, upper))


def first_fooled(
    evaluate: Objective, x: Array, draw: Callable[[Array], Array], tries: int
) -> tuple[Point, Array]:
    """The first misclassified point of `x`, draw(0), draw(1), ..., and how many were drawn.

    Where none of `tries` draws is misclassified, the point of largest value.
    """

    def proceed(carry: tuple[Array, Point]) -> Array:
        count, best = carry
        return (count < tries) & ~best.fooled

    def advance(carry: tuple[Array, Point]) -> tuple[Array, Point]:
        count, best = carry
        z = draw(count)
        return count + 1, better(best, Point(z, *evaluate(z)))

    start = Point(x, *evaluate(x))
    count, best = jax.lax.while_loop(proceed, advance, (jnp.int32(0), start))
    return best, count


class Noise(Attack):
    """What `gaussian_noise` and its like make: `draw` at growing amplitudes; see there."""

    threat: BoxedBall
    draw: Draw = static()
    levels: int = static()
    repeats: int = static()

    def __call__(self, key: Key, f: LogitsFn, x: Array, y: Array) -> AttackResult:
        def noisy(count: Array) -> Array:
            amplitude = (count // self.repeats + 1).astype(x.dtype) / self.levels
            return self.draw(jax.random.fold_in(key, count), self.threat, x, amplitude)

        evaluate = objective(f, losses.margin, y)
        best, count = first_fooled(evaluate, x, noisy, self.levels * self.repeats)
        return judge(f, self.threat, x, y, best.z, losses.margin, forwards=count + 1, backwards=0)


def _noise(threat: BoxedBall, draw: Draw, levels: int, repeats: int) -> Noise:
    checks.at_least("levels", levels, 1)
    checks.at_least("repeats", repeats, 1)
    return Noise(threat=threat, draw=draw, levels=levels, repeats=repeats)


def gaussian_noise(threat: BoxedBall, *, levels: int = 10, repeats: int = 10) -> Attack:
    """Gaussian noise, scaled to a growing share of the radius, until the model is fooled.

    z = P(x + a radius n / ||n||), n ~ N(0, I) anew each time, in the threat's norm; a = 1/levels,
    2/levels, ..., 1 with `repeats` draws each, after the clean point itself. Decision-based: the
    first misclassified point is returned, of the smallest amplitude that had one; failing that, the
    point of largest margin. The baseline every attack must beat, and the additive noise attacks
    of Foolbox (Rauber et al. 2017) with their repeats; there the norm of the noise is fixed.
    Not differentiable.

    Args:
      threat: a norm ball or a union of them.
      levels: amplitudes tried.
      repeats: draws at each.

    Raises:
      ValueError: levels or repeats < 1, or a `Wasserstein` set, by which no noise can be scaled.
    """
    _refuse_transport("gaussian_noise", threat)
    return _noise(threat, _gaussian, levels, repeats)


def uniform_noise(threat: BoxedBall, *, levels: int = 10, repeats: int = 10) -> Attack:
    """Uniform noise, scaled to a growing share of the radius, until the model is fooled.

    As `gaussian_noise` with n ~ U(-1, 1) per coordinate.

    Args:
      threat, levels, repeats: as in `gaussian_noise`.

    Raises:
      ValueError: as `gaussian_noise`.
    """
    _refuse_transport("uniform_noise", threat)
    return _noise(threat, _uniform, levels, repeats)


def salt_and_pepper(threat: BoxedBall, *, levels: int = 10, repeats: int = 10) -> Attack:
    """Coordinates set to black or white at random, ever more of them, until the model is fooled.

    z = P(x with each coordinate moved to `lower` or `upper`, each with probability a / 2); the
    amplitudes a, repeats, result and cost are those of `gaussian_noise`. Every channel of a pixel
    is drawn by itself. Within a small linf ball this is noise of +-radius on a share a of the
    coordinates. Salt-and-pepper attack of Foolbox (Rauber et al. 2017), inside a threat set.

    Args:
      threat: a norm ball with a finite box.
      levels: amplitudes tried.
      repeats: draws at each.

    Raises:
      ValueError: levels or repeats < 1, or a box without finite bounds.
    """
    finite_box("salt_and_pepper", threat)
    return _noise(threat, _salt_and_pepper, levels, repeats)


def _refuse_transport(name: str, threat: BoxedBall) -> None:
    """Raises ValueError for a set that measures moves of mass: noise would have no finite size."""
    if isinstance(threat, Wasserstein):
        raise ValueError(
            f"{name} scales noise in the threat's norm, and Wasserstein measures how far mass "
            "moves; take salt_and_pepper, which projects its noise, or attacks.growing"
        )


def finite_box(name: str, threat: BoxedBall) -> None:
    """Raises ValueError for a box known on the host that is unbounded: nothing to draw from."""
    for bound in (threat.lower, threat.upper):
        if checks.is_concrete(bound) and not np.isfinite(bound).all():
            raise ValueError(f"{name} draws from the pixel box, which must be finite, got {bound}")
