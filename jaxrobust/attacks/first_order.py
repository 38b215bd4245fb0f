"""Attacks that are projected ascent with an Optax optimizer: the shared builder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike

from jaxrobust import checks, losses
from jaxrobust.attacks import starts
from jaxrobust.attacks.ascend import ascend, judge, objective
from jaxrobust.types import (
    Array,
    Attack,
    AttackResult,
    Key,
    LogitsFn,
    Loss,
    Scalar,
    ThreatModel,
    make_attack,
)

Start = Callable[[Key, Any, Array], Array]
"""(key, threat, clean example) -> first iterate, inside the set."""

OptimizerFn = Callable[..., optax.GradientTransformation]
"""(key, threat, **numbers) -> the optimizer of one example's attack."""

Keep = Literal["best", "last"]
"""Which iterate an attack returns."""


def _run(
    key: Key,
    f: LogitsFn,
    x: Array,
    y: Array,
    *,
    threat: ThreatModel,
    optimizer: OptimizerFn,
    steps: int,
    start: Start,
    loss: Loss,
    keep: str,
    clean: bool,
    **numbers: Scalar,
) -> AttackResult:
    start_key, noise_key = jax.random.split(key)
    numbers = {name: jnp.asarray(value, x.dtype) for name, value in numbers.items()}
    path = ascend(
        objective(f, loss, y),
        threat,
        x,
        start(start_key, threat, x),
        optimizer(noise_key, threat, **numbers),
        steps=steps,
    )
    # Keeping the last point leaves the evaluation that closes `ascend` unused: XLA drops it.
    z, extra = (path.best.z, 1) if keep == "best" else (path.last, 0)
    costs = {"forwards": steps + extra, "backwards": steps}
    return judge(f, threat, x, y, z, loss, clean=clean, **costs)


def stacked(numbers: Mapping[str, Scalar], threat: ThreatModel) -> dict[str, Scalar]:
    """Gives scalar settings the leading axis of a stack of radii: `vmap` wants one everywhere."""
    shape = jnp.shape(threat.radius)
    if not shape:
        return dict(numbers)
    return {name: jnp.broadcast_to(jnp.asarray(v), shape) for name, v in numbers.items()}


def shared(number: Scalar, dtype: DTypeLike) -> Array:
    """A number that `stacked` may have given to each coordinate, as one again."""
    return jnp.max(jnp.asarray(number, dtype))


def first_order(
    threat: ThreatModel,
    optimizer: OptimizerFn,
    numbers: Mapping[str, Scalar],
    *,
    steps: int,
    start: Start = starts.uniform,
    loss: Loss = losses.cross_entropy,
    keep: Keep = "best",
    scales: Sequence[str] = (),
) -> Attack:
    """`steps` projected steps of `optimizer(key, threat, **numbers)` that maximize `loss`.

    The building block of FGSM, PGD, MI-FGSM and Langevin; use it with any Optax optimizer of your
    own, written as if to minimize (it is given the gradient of -loss).

    Args:
      threat: the set to stay in.
      optimizer: a module-level function (static: one made anew for each call compiles anew).
      numbers: its traced settings by name, one leaf of the attack each, which reach it in the dtype
        of `x`. Where the threat is a stack of sets (an array of radii), scalars are stacked along,
        ready for `vmap`.
      steps: gradient evaluations.
      start: `attacks.starts.clean`, `uniform`, `gaussian` or your own.
      loss: what to climb, from logits and label.
      keep: "best" returns the best point seen (one that fools, then the highest loss),
        "last" the last iterate. Called by itself, the attack returns the clean example where
        the model errs on that and not on this point; training calls its `bare` form, which never
        does.
      scales: those of `numbers` that are lengths in the set, as step sizes are: a training method
        whose radius grows (`ramp`) grows them along. What is not named here stays as it is.

    Raises:
      ValueError: steps < 1, an unknown `keep`, a negative or non-finite number, or `scales` of
        something else than `numbers`.
    """
    checks.at_least("steps", steps, 1)
    checks.choice("keep", keep, get_args(Keep))
    for name, value in numbers.items():
        checks.nonnegative(name, value)
    leaves = {"threat": threat, **stacked(numbers, threat)}
    return make_attack(
        _run,
        leaves,
        optimizer=optimizer,
        steps=steps,
        start=start,
        loss=loss,
        keep=keep,
        clean=True,
        scales=scales,
    )
