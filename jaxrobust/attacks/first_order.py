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
    spread,
    static,
)

Start = Callable[[Key, Any, Array], Array]
"""(key, threat, clean example) -> first iterate, inside the set."""

OptimizerFn = Callable[..., optax.GradientTransformation]
"""(key, threat, **numbers) -> the optimizer of one example's attack."""

Keep = Literal["best", "last"]
"""Which iterate an attack returns."""


class FirstOrder(Attack):
    """What `first_order` makes, and with it PGD and its like; see there."""

    threat: ThreatModel
    numbers: Mapping[str, Scalar] = spread()
    sizes: Mapping[str, Scalar] = spread(length=True)
    optimizer: OptimizerFn = static()
    steps: int = static()
    start: Start = static()
    loss: Loss = static()
    keep: Keep = static()
    clean: bool = static(default=True)

    def __call__(self, key: Key, f: LogitsFn, x: Array, y: Array) -> AttackResult:
        start_key, noise_key = jax.random.split(key)
        numbers = {**self.numbers, **self.sizes}
        numbers = {name: jnp.asarray(value, x.dtype) for name, value in numbers.items()}
        path = ascend(
            objective(f, self.loss, y),
            self.threat,
            x,
            self.start(start_key, self.threat, x),
            self.optimizer(noise_key, self.threat, **numbers),
            steps=self.steps,
        )
        # Keeping the last point leaves the evaluation that closes `ascend` unused: XLA drops it.
        z, extra = (path.best.z, 1) if self.keep == "best" else (path.last, 0)
        costs = {"forwards": self.steps + extra, "backwards": self.steps}
        return judge(f, self.threat, x, y, z, self.loss, clean=self.clean, **costs)


def stacked(numbers: Mapping[str, Scalar], threat: ThreatModel) -> dict[str, Scalar]:
    """Gives scalar settings the leading axis of a stack of radii: `vmap` wants one everywhere."""
    if not hasattr(threat, "radius"):
        raise TypeError(f"an attack takes a set, such as threats.Linf({threat!r}), got {threat!r}")
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
) -> FirstOrder:
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

    Example:
      >>> import optax
      >>> from jaxrobust import attacks, threats
      >>> def adam(key, threat, *, step_size):
      ...     return optax.adam(step_size)
      >>> attack = attacks.first_order(threats.Linf(0.1), adam, {"step_size": 0.02}, steps=20)
      >>> attack.replace(step_size=0.01).settings["step_size"]
      0.01
    """
    checks.at_least("steps", steps, 1)
    checks.choice("keep", keep, get_args(Keep))
    for name, value in numbers.items():
        checks.nonnegative(name, value)
    for name in scales:
        if name not in numbers:
            known = ", ".join(sorted(numbers))
            raise ValueError(f"scales names {name!r}, which is no number of this attack: {known}")
    numbers = stacked(numbers, threat)
    return FirstOrder(
        threat=threat,
        numbers={name: value for name, value in numbers.items() if name not in scales},
        sizes={name: value for name, value in numbers.items() if name in scales},
        optimizer=optimizer,
        steps=steps,
        start=start,
        loss=loss,
        keep=keep,
    )
