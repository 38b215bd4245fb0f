"""Carlini & Wagner's linf attack: a penalty on what exceeds a bound that shrinks."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxrobust import checks, losses
from jaxrobust.attacks.carlini_wagner import Walk, adam_step, check_box, tanh_space
from jaxrobust.attacks.first_order import stacked
from jaxrobust.attacks.minimum_norm import Nearest, closer, conclude, unmoved
from jaxrobust.threats import Linf
from jaxrobust.types import Array, Attack, AttackResult, Key, LogitsFn, Scalar, static


class Round(NamedTuple):
    """Between two rounds of the linf attack: where it stands, its constants, and its cost."""

    z: Array
    tau: Array
    c: Array
    record: Nearest
    count: Array  # pyright: ignore[reportIncompatibleMethodOverride]
    passes: Array


class CarliniWagnerLinf(Attack):
    """What `carlini_wagner_linf` makes; see there."""

    threat: Linf
    step_size: Scalar
    first: Scalar
    largest: Scalar
    decay: Scalar
    steps: int = static()
    rounds: int = static()

    def __call__(self, key: Key, f: LogitsFn, x: Array, y: Array) -> AttackResult:
        del key
        settings = (self.step_size, self.first, self.largest, self.decay)
        step_size, first, largest, decay = (jnp.asarray(a, x.dtype) for a in settings)
        space = tanh_space(self.threat, x)
        width = 2 * jnp.max(space.half)
        adam = optax.adam(step_size)

        def loss(u: Array, c: Array, tau: Array) -> tuple[Array, Array]:
            z = space.point(u)
            margin = losses.margin(f(z), y)
            excess = jnp.sum(jnp.maximum(jnp.abs(z - x) - tau, 0))
            return c * jnp.maximum(-margin, 0) + excess, margin

        def play(now: Round) -> Round:
            def proceed(carry: tuple[Walk, Array]) -> Array:
                walk, k = carry
                return (k < self.steps) & ~walk.succeeded

            def step(carry: tuple[Walk, Array]) -> tuple[Walk, Array]:
                walk, k = carry
                gradient = jax.value_and_grad(loss, has_aux=True)
                (value, margin), g = gradient(walk.u, now.c, now.tau)
                fools = ~(margin < 0)
                record = closer(walk.record, self.threat, x, space.point(walk.u), fools)
                u, state = adam_step(adam, walk, g)
                works = fools & ~(value > 1e-4 * now.c)
                # The point that works must survive: the next round starts there.
                u = jnp.where(works, walk.u, u)
                return Walk(u, state, record, works), k + 1

            u = space.coordinates(now.z)
            walk = Walk(u, adam.init(u), now.record, jnp.zeros((), bool))
            walk, k = jax.lax.while_loop(proceed, step, (walk, jnp.zeros((), jnp.int32)))
            z = jnp.where(walk.succeeded, space.point(walk.u), now.z)
            shrunk = decay * jnp.minimum(now.tau, self.threat.size(x, z))
            return Round(
                z,
                jnp.where(walk.succeeded, shrunk, now.tau),
                jnp.where(walk.succeeded, now.c, 2 * now.c),
                walk.record,
                now.count + 1,
                now.passes + k,
            )

        def proceed(now: Round) -> Array:
            open_ = (now.tau > width / 256) & (now.c <= largest) & (now.record.norm > 0)
            return open_ & (now.count < self.rounds)

        record, zero = unmoved(x, f(x), y), jnp.zeros((), jnp.int32)
        end = jax.lax.while_loop(proceed, play, Round(x, width, first, record, zero, zero))
        return conclude(
            f, self.threat, x, y, end.record, forwards=end.passes + 1, backwards=end.passes
        )


def carlini_wagner_linf(
    threat: Linf,
    *,
    steps: int = 1000,
    rounds: int = 80,
    step_size: Scalar = 5e-3,
    first: Scalar = 1e-5,
    largest: Scalar = 20.0,
    decay: Scalar = 0.9,
) -> CarliniWagnerLinf:
    """C&W (linf): minimizes c max(z_y - max_{j != y} z_j, 0) + sum_i max(|z_i - x_i| - tau, 0).

    Each round descends by Adam in tanh space from the last point that worked, until one fools the
    model with an excess over tau of at most 1e-4 c. Then tau <- decay * min(tau, ||z - x||_inf);
    if none does within `steps`, c doubles. It ends when c exceeds `largest`, tau is below 1/256 of
    the box, or after `rounds`. Carlini & Wagner 2017 (arXiv:1608.04644), section VI-C.

    Returns the misclassified point of least linf norm over all iterates, with the conventions of
    `carlini_wagner`; its precision is that of `decay`. Costs at most `steps` * `rounds` forward
    and backward passes, counted per example, and two forward passes. Not meant to be
    differentiated.

    Difference from the released code: every iterate that fools the model counts, not only
    those that end a round.

    Args:
      threat: `Linf` with a finite box.
      steps: of each round, static.
      rounds: at most, static.
      step_size: Adam's, in tanh space.
      first, largest: bounds of c.
      decay: of tau, below 1.

    Raises:
      TypeError: another threat.
      ValueError: an infinite box, a count below 1, another number that is not positive.
    """
    check_box(threat, Linf, "carlini_wagner_linf")
    checks.at_least("steps", steps, 1)
    checks.at_least("rounds", rounds, 1)
    scalars = {"step_size": step_size, "first": first, "largest": largest, "decay": decay}
    for name, value in scalars.items():
        checks.positive(name, value)
    return CarliniWagnerLinf(threat=threat, **stacked(scalars, threat), steps=steps, rounds=rounds)
