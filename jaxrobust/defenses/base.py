"""The one signature of every training method, and what the methods share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust import attacks, checks, losses
from jaxrobust.defenses.ramp import check_ramp, grown
from jaxrobust.threats.covering import warn_of_covering
from jaxrobust.types import (
    Array,
    Attack,
    AttackResult,
    Batch,
    Key,
    LogitsFn,
    Loss,
    Model,
    PyTree,
    Scalar,
    ThreatModel,
    Variables,
)

EXAMPLES = "examples"
"""Name of the mapped axis over a batch's examples inside an attack."""

ATTACK_MODES = ("eval", "train")

PGD = "attacks.pgd(threat, step_size=..., steps=...)"
"""The call that most methods are shown, where a set stands in an attack's place."""


class LossOutput(NamedTuple):
    """What a defense's loss returns beside the loss."""

    stats: PyTree
    """The model's renewed batch statistics."""
    state: PyTree
    """The method's renewed state."""
    metrics: dict[str, Array]
    """Means over the batch, by name."""
    violation: Array | None = None
    """g(theta) of the constraint g <= 0, a mean over the batch; None without a constraint."""


class TrainContext(NamedTuple):
    """Where training stands when a batch is seen."""

    nu: Array | None = None
    """The Lagrange multiplier; None without a constraint."""
    state: PyTree = ()
    """The method's own state."""
    progress: Scalar = 0.0
    """Progress, from 0 to 1 over training."""
    axes: tuple[str, ...] = ()
    """The device axes over which training batch statistics are averaged."""


class Defense(NamedTuple):
    """A training method as two pure functions."""

    init: Callable[[], PyTree]
    """`init() -> state`, the method's own state (`()` for most)."""
    loss: Callable[[Key, Model, Variables, Batch, TrainContext], tuple[Array, LossOutput]]
    """`loss(key, model, variables, batch, context) -> (loss, LossOutput)`, the mean over the batch
    that training minimizes; differentiable in `variables.params`."""
    constrained: bool = False
    """Whether `loss` needs a multiplier and reports a violation."""
    ascend_state: Callable[[PyTree, PyTree], PyTree] | None = None
    """`ascend_state(state, gradient) -> state` moves the state along the gradient of the batch's
    loss in it, which comes with the backward pass for the parameters; None where there is no such
    move."""
    replays: int = 1
    """How many steps in a row see the same batch."""


def no_state() -> tuple:
    """The state of a method without state."""
    return ()


def check_attack_mode(attack_mode: str) -> None:
    """Raises ValueError unless the mode is "eval" or "train"."""
    checks.choice("attack_mode", attack_mode, ATTACK_MODES)


def check_attack(attack: Attack, *, defense: str, made_by: str = PGD) -> None:
    """Raises TypeError where a set of points stands in an attack's place, and shows the call."""
    if isinstance(attack, ThreatModel) or not callable(attack):
        raise TypeError(
            f"defenses.{defense} takes an attack, got {type(attack).__name__}; write "
            f"defenses.{defense}({made_by}, ...)"
        )


def adversarial_examples(
    key: Key,
    attack: Attack,
    model: Model,
    variables: Variables,
    batch: Batch,
    context: TrainContext,
    *,
    attack_mode: str,
    ramp: Scalar = 0.0,
    make_loss: Callable[..., Loss] | None = None,
    targets: tuple[Array, ...] = (),
) -> Array:
    """Finds adversarial points for a batch of training examples.

    The points are those of the attack's `bare` form: the ends of its search.

    Args:
      key: the random key of the batch.
      attack: called as `attack(key, f, x, y)` on one example.
      model, variables: the classifier under attack.
      batch: images or vectors `[B, ...]` with their labels and data-set indices, `[B]` each.
      context: where training stands: `progress` on the ramp, and the device axes.
      attack_mode: "eval" attacks the classifier with its running statistics and no dropout (the
        default everywhere); "train" with the statistics of the batch of iterates itself, averaged
        over devices, and dropout, as the fast-adversarial and robust-overfitting code do. In that
        mode alone, examples influence one another. It needs an attack of a fixed number of steps
        (not `attacks.fosc_stopped_pgd` or `growing`): devices that leave its loop at different
        times would wait for one another's statistics forever.
      ramp: the share of training over which the radius, and the settings that the attack declares
        to go with it (`Attack.lengths`; step sizes in the library's own), grow linearly from 0 to
        their full values (0: full from the start). At a large radius, training from scratch can
        stick at the constant prediction; starting small avoids it (Wong's thesis, section 3.3.1).
      make_loss: (clean logits, *the example's targets) -> loss, for an attack on something else
        than its own loss, such as a divergence from the clean prediction.
      targets: arrays `[B, ...]` for `make_loss`.

    Returns:
      The adversarial points `[B, ...]`, constants for the training loss: no gradient flows through
      them.
    """
    variables = jax.lax.stop_gradient(variables)
    # A plain function has no parts to change.
    bare = attack.bare if isinstance(attack, Attack) else attack
    warn_of_covering(getattr(attack, "threats", ()), batch.x.shape[1:])
    attack = grown(bare, context.progress, ramp)

    def run(key: Key, f: LogitsFn, x: Array, y: Array, *own: Array) -> AttackResult:
        aimed = attack.replace(loss=make_loss(f(x), *own)) if make_loss else attack
        return aimed(key, f, x, y)

    result = over_examples(
        key, run, model, variables, batch, context, attack_mode=attack_mode, targets=targets
    )
    return jax.lax.stop_gradient(result.x)


def over_examples(
    key: Key,
    run: Callable[..., PyTree],
    model: Model,
    variables: Variables,
    batch: Batch,
    context: TrainContext,
    *,
    attack_mode: str,
    targets: tuple[Array, ...] = (),
) -> PyTree:
    """`run(key, f, x, y, *targets)` on every example side by side; results gain a leading axis.

    f is the classifier of one example in the mode `attack_mode` of `adversarial_examples`, one
    function with one dropout mask throughout a run. Differentiable in `variables` where `run` is.
    """

    def training_fn(key: Key) -> LogitsFn:
        return lambda x: model.apply(
            variables, x[None], train=True, key=key, axes=(EXAMPLES, *context.axes)
        )[0][0]

    def one(key: Key, f: LogitsFn, x: Array, y: Array, *own: Array) -> PyTree:
        # Dropout too is drawn from the example's own key: the same mask on any number of devices.
        own_key, drop_key = jax.random.split(key)
        f = f if attack_mode == "eval" else training_fn(drop_key)
        return run(own_key, f, x, y, *own)

    return attacks.batched(
        one, key, model.logits_fn(variables), batch.x, batch.y, *targets,
        index=batch.index, axis_name=None if attack_mode == "eval" else EXAMPLES,
    )  # fmt: skip


def over_devices(mean: Array, axes: tuple[str, ...]) -> Array:
    """The mean over the devices of the mapped `axes` of each one's mean."""
    return jax.lax.pmean(mean, axes) if axes else mean


def forward(
    key: Key,
    model: Model,
    variables: Variables,
    x: Array,
    *,
    axes: tuple[str, ...],
) -> tuple[Array, Variables]:
    """A forward pass in training mode.

    Dropout differs between the devices of the mapped `axes`.

    Args:
      key: the random key of dropout.
      model, variables: the classifier.
      x: `[B, ...]`.
      axes: the device axes over which batch statistics are averaged.

    Returns:
      The logits `[B, K]`, and the variables with renewed statistics and the same parameters.
    """
    for axis in axes:
        key = jax.random.fold_in(key, jax.lax.axis_index(axis))
    logits, stats = model.apply(variables, x, train=True, key=key, axes=axes)
    return logits, variables._replace(stats=stats)


def mean_loss(loss: Loss, logits: Array, y: Array) -> Array:
    """The batch mean of a per-example loss."""
    return jnp.mean(jax.vmap(loss)(logits, y))


def mean_cross_entropy(logits: Array, y: Array) -> Array:
    """The batch mean of the cross-entropy."""
    return mean_loss(losses.cross_entropy, logits, y)


def accuracy(logits: Array, y: Array) -> Array:
    """The share of the batch whose label's logit is strictly the largest, in %."""
    wrong = jax.vmap(attacks.fooled)(logits, y)
    return 100.0 * jnp.mean((~wrong).astype(jnp.float32))


def metrics_of(
    y: Array, *, clean: Array | None = None, adversarial: Array | None = None
) -> dict[str, Array]:
    """Cross-entropy and accuracy of clean and adversarial logits, where given.

    Args:
      y: `[B]` integers, the labels.
      clean: logits `[B, K]` of the clean examples.
      adversarial: logits `[B, K]` of the adversarial ones.

    Returns:
      Scalars by name: `clean_loss` and `adversarial_loss`, mean cross-entropies in nats, and
      `clean_accuracy` and `adversarial_accuracy` in %. Those of logits not given are missing.
    """
    metrics = {}
    for name, logits in (("clean", clean), ("adversarial", adversarial)):
        if logits is not None:
            metrics[f"{name}_loss"] = mean_cross_entropy(logits, y)
            metrics[f"{name}_accuracy"] = accuracy(logits, y)
    return metrics


PairObjective = Callable[[Array, Array, Array, Any], tuple[Array, Array | None]]
"""(clean logits, adversarial logits, labels, nu) -> (loss, violation or None), batch means."""


def paired(
    attack: Attack,
    objective: PairObjective,
    *,
    attack_mode: str = "eval",
    ramp: Scalar = 0.0,
    make_loss: Callable[[Array], Loss] | None = None,
    constrained: bool = False,
) -> Defense:
    """A defense whose loss compares a batch's clean and adversarial predictions.

    The two are separate training-mode forward passes, clean first; running statistics see both.

    Args:
      attack, attack_mode, ramp, make_loss: see `adversarial_examples`.
      objective: what to minimize.
      constrained: whether it uses `nu` and returns a violation.
    """
    check_attack_mode(attack_mode)
    check_ramp(ramp, attack)

    def loss(
        key: Key, model: Model, variables: Variables, batch: Batch, context: TrainContext
    ) -> tuple[Array, LossOutput]:
        attack_key, clean_key, adversarial_key = jax.random.split(key, 3)
        points = adversarial_examples(
            attack_key, attack, model, variables, batch, context, attack_mode=attack_mode,
            ramp=ramp, make_loss=make_loss,
        )  # fmt: skip
        clean, variables = forward(clean_key, model, variables, batch.x, axes=context.axes)
        adversarial, variables = forward(
            adversarial_key, model, variables, points, axes=context.axes
        )
        value, violation = objective(clean, adversarial, batch.y, context.nu)
        metrics = metrics_of(batch.y, clean=clean, adversarial=adversarial)
        return value, LossOutput(variables.stats, context.state, metrics, violation)

    return Defense(no_state, loss, constrained)
