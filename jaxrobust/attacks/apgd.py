"""APGD: projected ascent whose step size adapts to the progress it makes, for linf and l2."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from jaxrobust import checks, losses
from jaxrobust.attacks.ascend import judge, objective
from jaxrobust.attacks.first_order import Start, shared, stacked
from jaxrobust.threats import L2, Linf
from jaxrobust.threats.box import numbers
from jaxrobust.types import Array, Attack, AttackResult, Key, LogitsFn, Loss, Scalar, static

MOMENTUM = 0.75  # weight of the new step; the rest repeats the last movement


def sphere(key: Key, threat: Linf | L2, x: Array) -> Array:
    """A random point at distance radius from `x`, then clipped to the box: APGD's start.

    linf: x + radius u / max|u| with u uniform in [-1, 1]; l2: x + radius n / ||n|| with n normal.

    Args:
      key: the random key.
      threat: `Linf` or `L2`.
      x: the clean example, `[...]`.

    Returns:
      A point `[...]` of the set.

    Raises:
      TypeError: another threat.
    """
    _check_threat(threat)
    radius, _, _ = numbers(threat, x)
    if isinstance(threat, Linf):
        noise = jax.random.uniform(key, x.shape, radius.dtype, minval=-1, maxval=1)
    else:
        noise = jax.random.normal(key, x.shape, radius.dtype)
    length = jnp.max(jnp.abs(noise)) if isinstance(threat, Linf) else threat.dual_norm(noise)
    return threat.project(x, x + radius * noise / jnp.where(length == 0, 1, length))


class Evaluation(NamedTuple):
    """The loss at one point, its gradient there, and whether the point fools the model."""

    value: Array
    gradient: Array
    fools: Array


class Found(NamedTuple):
    """The iterate `z` of highest loss with its gradient, and the latest that fools the model."""

    z: Array
    gradient: Array
    value: Array
    adversarial: Array
    fooled: Array

    def result(self) -> Array:
        """The point to return: one that fools the model, else the one of highest loss."""
        return jnp.where(self.fooled, self.adversarial, self.z)


def evaluator(f: LogitsFn, loss: Loss, y: Array) -> Callable[[Array], Evaluation]:
    """`z -> Evaluation` of one forward and backward pass, without NaN.

    Non-finite gradient entries count as zero (they give no direction) and a NaN loss as -inf: it
    must not become the best point. NaN logits fool the model all the same.
    """
    gradient = jax.value_and_grad(objective(f, loss, y), has_aux=True)

    def evaluate(z: Array) -> Evaluation:
        (value, fools), g = gradient(z)
        value = jnp.where(jnp.isnan(value), -jnp.inf, value)
        return Evaluation(value, jnp.where(jnp.isfinite(g), g, jnp.zeros_like(g)), fools)

    return evaluate


def nothing(z: Array, dtype: DTypeLike) -> Found:
    """The record of a search that starts at `z`, not evaluated yet; `dtype` is the loss's."""
    return Found(z, jnp.zeros_like(z), jnp.full((), -jnp.inf, dtype), z, jnp.zeros((), bool))


def update(found: Found, z: Array, here: Evaluation) -> Found:
    """`found` after evaluating `z`: the best by strictly higher loss, the latest that fools."""
    higher = here.value > found.value
    return Found(
        z=jnp.where(higher, z, found.z),
        gradient=jnp.where(higher, here.gradient, found.gradient),
        value=jnp.where(higher, here.value, found.value),
        adversarial=jnp.where(here.fools, z, found.adversarial),
        fooled=found.fooled | here.fools,
    )


def _windows(steps: int) -> np.ndarray:
    """Entry i: length of the window of steps whose check follows step i, or 0 for no check.

    int32 `[steps + 1]`. Windows shrink from 22 % to 6 % of the steps by 3 % each (section 3.3);
    in whole numbers, because .29 * 100 is below 29 in floats.
    """
    ends = np.zeros(steps + 1, np.int32)
    length, end = max(22 * steps // 100, 1), 0
    while (end := end + length) <= steps:
        ends[end] = length
        length = max(length - max(3 * steps // 100, 1), max(6 * steps // 100, 1))
    return ends


class State(NamedTuple):
    """Between two steps; `before` is the iterate before `z`, and `value` that one's loss.

    Since the last check the loss rose `rises` times; that check found the best loss `checked`
    and `halved` the step size or not.
    """

    z: Array
    before: Array
    value: Array
    found: Found
    step_size: Array
    rises: Array
    halved: Array
    checked: Array


class APGD(Attack):
    """What `apgd` makes; see there."""

    threat: Linf | L2
    rho: Scalar
    steps: int = static()
    loss: Loss = static()
    start: Start = static()
    clean: bool = static(default=True)

    def __call__(self, key: Key, f: LogitsFn, x: Array, y: Array) -> AttackResult:
        radius, _, _ = numbers(self.threat, x)
        rho = shared(self.rho, radius.dtype)
        evaluate = evaluator(f, self.loss, y)

        def step(state: State, now: tuple[Array, Array]) -> tuple[State, None]:
            window, weight = now
            here = evaluate(state.z)
            found = update(state.found, state.z, here)
            rises = state.rises + (here.value > state.value).astype(jnp.int32)

            few = rises.astype(rho.dtype) <= rho * window.astype(rho.dtype)
            stuck = ~state.halved & (found.value <= state.checked)
            check = window > 0
            halve = check & (few | stuck)
            step_size = jnp.where(halve, state.step_size / 2, state.step_size)
            z = jnp.where(halve, found.z, state.z)
            g = jnp.where(halve, found.gradient, here.gradient)

            aim = self.threat.project(x, z + step_size * self.threat.steepest(g, z))
            moved = z + weight * (aim - z) + (1 - weight) * (z - state.before)
            return State(
                z=self.threat.project(x, moved),
                before=z,
                value=here.value,
                found=found,
                step_size=step_size,
                rises=jnp.where(check, 0, rises),
                halved=jnp.where(check, halve, state.halved),
                checked=jnp.where(check, found.value, state.checked),
            ), None

        z = self.start(key, self.threat, x)
        found = nothing(z, jax.eval_shape(evaluate, z).value.dtype)
        # Each turn evaluates first and then moves, so that the network is traced once. No rise
        # leads to the start, and the first check's best is above `checked`, -inf: the second rule
        # is off there.
        state = State(
            z=z,
            before=z,
            value=jnp.full_like(found.value, jnp.inf),
            found=found,
            step_size=2 * (radius if isinstance(self.threat, Linf) else jnp.max(radius)),
            rises=jnp.zeros((), jnp.int32),
            halved=jnp.zeros((), bool),
            checked=found.value,
        )
        weights = jnp.full(self.steps + 1, MOMENTUM, radius.dtype).at[0].set(1)
        state, _ = jax.lax.scan(step, state, (jnp.asarray(_windows(self.steps)), weights))
        z = state.found.result()
        costs = {"forwards": self.steps + 1, "backwards": self.steps + 1}
        return judge(f, self.threat, x, y, z, self.loss, clean=self.clean, **costs)


def apgd(
    threat: Linf | L2,
    *,
    steps: int = 100,
    loss: Loss = losses.cross_entropy,
    rho: Scalar = 0.75,
    start: Start = sphere,
) -> APGD:
    """APGD (linf, l2): maximizes `loss` without a step size to tune.

    z = P(x_i + eta d), x_{i+1} = P(x_i + .75 (z - x_i) + .25 (x_i - x_{i-1})), d the threat's
    steepest direction, eta = 2 radius at first. After ever shorter windows of steps (22, 19, 16,
    ... of 100) eta is halved and the search resumes from the best point, if the loss rose in at
    most `rho` of the window's steps, or if the best loss did not move although the last check
    left eta alone. Croce & Hein 2020 (arXiv:2003.01690), Algorithm 1 and section 3. Returns the
    latest iterate that fools the model, else the clean example if that does, else the iterate of
    highest loss; costs `steps` + 1 forward and backward passes and two forward passes for the
    verdict. Not meant to be differentiated.

    APGD-DLR is `loss=dlr_or_margin`; APGD-T is
    `targeted(apgd(threat), loss=targeted_dlr_or_margin, targets=9)`; restarts are `restarts`.

    Differences from the released code: it compares the first step's loss with 0 instead of the
    start's; its cross-entropy loses its float32 gradient at gaps where `losses.cross_entropy`
    does not; it adds 1e-12 to norms; it never tries the later targets on a point already broken.
    As there, whether the step after a jump was a rise is judged against the iterate left behind.

    Args:
      threat: `Linf` or `L2`; see `apgd_l1` for `L1`.
      steps: N, static.
      rho: the share of rising steps below which eta is halved.
      loss: what to climb, from logits `[K]` and label.
      start: `sphere`, or any `(key, threat, x) -> z` inside the set.

    Raises:
      TypeError: another threat.
      ValueError: steps < 1, or rho negative or not finite.
    """
    _check_threat(threat)
    checks.at_least("steps", steps, 1)
    checks.nonnegative("rho", rho)
    (rho,) = stacked({"rho": rho}, threat).values()
    return APGD(threat=threat, rho=rho, steps=steps, loss=loss, start=start)


def _check_threat(threat: Linf | L2) -> None:
    if not isinstance(threat, Linf | L2):
        name = type(threat).__name__
        raise TypeError(f"apgd needs a Linf or L2 threat, got {name}; use apgd_l1 or pgd")
