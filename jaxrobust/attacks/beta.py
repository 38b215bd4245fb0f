"""Attacks that climb the margin of every wrong class: BETA and multi-targeted PGD."""

from __future__ import annotations

import optax

from jaxrobust.attacks import starts
from jaxrobust.attacks.first_order import FirstOrder, Keep, OptimizerFn, Start, first_order
from jaxrobust.attacks.pgd import pgd
from jaxrobust.attacks.wrappers import targeted
from jaxrobust.types import Attack, Key, Scalar, ThreatModel


def rmsprop(key: Key, threat: ThreatModel, *, step_size: Scalar) -> optax.GradientTransformation:
    """RMSprop as PyTorch has it: decay .99, 1e-8 added outside the square root, no bias correction.

    The first step is thus 10 step_size long in every coordinate, so that a ball of a few steps is
    crossed at once.
    """
    del key, threat
    return optax.rmsprop(step_size, decay=0.99, eps=1e-8, eps_in_sqrt=False)


def rmsprop_in_sqrt(
    key: Key, threat: ThreatModel, *, step_size: Scalar
) -> optax.GradientTransformation:
    """`rmsprop` with the 1e-8 inside the square root: gradients below 1e-4 take shorter steps."""
    del key, threat
    return optax.rmsprop(step_size, decay=0.99, eps=1e-8, eps_in_sqrt=True)


def optimizer_steps(
    threat: ThreatModel,
    *,
    step_size: Scalar = 2 / 255,
    steps: int = 30,
    optimizer: OptimizerFn = rmsprop,
    start: Start = starts.uniform,
    keep: Keep = "last",
) -> FirstOrder:
    """BETA's inner attack, before it is aimed at a class: arguments as `beta`."""
    return first_order(
        threat,
        optimizer,
        {"step_size": step_size},
        steps=steps,
        start=start,
        keep=keep,
        scales=("step_size",),
    )


def beta(
    threat: ThreatModel,
    *,
    step_size: Scalar = 2 / 255,
    steps: int = 30,
    optimizer: OptimizerFn = rmsprop,
    targets: int | None = None,
    chunk: int | None = None,
    start: Start = starts.uniform,
    keep: Keep = "last",
) -> Attack:
    """BETA: per wrong class j, optimizer steps up the margin z_j - z_y; the largest margin wins.

    Solves max over j != y and over the threat set of z_j - z_y, whose value is positive exactly
    where some point of the set is misclassified: no surrogate loss. Robey et al. 2023, Algorithm 1
    and eq. 15-17, with the projection after every step that the printed algorithm lacks, the
    gradient in the perturbation, and class y left out.

    Args:
      threat: the set.
      step_size, steps: of the optimizer (paper: 2/255; 30 steps to evaluate).
      optimizer: (key, threat, *, step_size) -> an Optax optimizer; also `rmsprop_in_sqrt`, or a
        module-level function of your own, written as if to minimize.
      targets: only that many wrong classes, by clean logit (default: all K - 1).
      chunk: how many classes run side by side (default all): memory only.
      start: of every climb; see `first_order`.
      keep: "last", the literal algorithm; "best" never loses a point already found.
    """
    climb = optimizer_steps(
        threat, step_size=step_size, steps=steps, optimizer=optimizer, start=start, keep=keep
    )
    return targeted(climb, targets=targets, chunk=chunk)


def multi_targeted(
    threat: ThreatModel,
    *,
    step_size: Scalar,
    steps: int,
    targets: int | None = None,
    chunk: int | None = None,
    start: Start = starts.uniform,
    keep: Keep = "best",
) -> Attack:
    """Multi-targeted PGD: per wrong class j, steepest steps up z_j - z_y; the largest margin wins.

    Gowal et al. 2019 (arXiv:1910.09338). Arguments as `pgd` and `beta`; keeps the best iterate.
    """
    climb = pgd(threat, step_size=step_size, steps=steps, start=start, keep=keep)
    return targeted(climb, targets=targets, chunk=chunk)
