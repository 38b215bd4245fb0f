"""Projected gradient descent, its single-step form and its momentum form."""

from __future__ import annotations

import optax

from jaxrobust import losses
from jaxrobust.attacks import starts
from jaxrobust.attacks.first_order import FirstOrder, Keep, Start, first_order
from jaxrobust.attacks.transforms import normalize_by_l1, scale_by_steepest
from jaxrobust.types import Key, Loss, Scalar, ThreatModel


def steepest(key: Key, threat: ThreatModel, *, step_size: Scalar) -> optax.GradientTransformation:
    """The optimizer of PGD: a step of length `step_size` in the threat's steepest direction."""
    del key
    return optax.chain(scale_by_steepest(threat), optax.scale_by_learning_rate(step_size))


def pgd(
    threat: ThreatModel,
    *,
    step_size: Scalar,
    steps: int,
    start: Start = starts.uniform,
    loss: Loss = losses.cross_entropy,
    keep: Keep = "best",
) -> FirstOrder:
    """PGD: z <- P(z + step_size * steepest direction), for any norm.

    Maximizes the loss (cross-entropy by default) over the threat set. Madry et al. 2018;
    DALE eq. 2. For l1 the direction spreads over `threat.coordinates` coordinates.

    Args:
      threat: the set.
      step_size: length of a step in the threat's norm.
      steps: how many.
      start, loss, keep: see `first_order`.

    Raises:
      ValueError: see `first_order`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxrobust import attacks, threats
      >>> f = lambda x: jnp.stack([x[0], x[1]])  # two classes, the larger input wins
      >>> attack = attacks.pgd(threats.Linf(0.1), step_size=0.02, steps=10)
      >>> found = attack(jax.random.key(0), f, jnp.array([0.55, 0.45]), jnp.int32(0))
      >>> bool(found.success), round(float(found.margin), 3)
      (True, 0.1)
    """
    return first_order(
        threat,
        steepest,
        {"step_size": step_size},
        steps=steps,
        start=start,
        loss=loss,
        keep=keep,
        scales=("step_size",),
    )


def carlini_wagner_pgd(
    threat: ThreatModel,
    *,
    step_size: Scalar,
    steps: int = 30,
    start: Start = starts.uniform,
    keep: Keep = "best",
) -> FirstOrder:
    """PGD on the margin max_{j != y} z_j - z_y, which tables call CW or CW-inf.

    Not a minimum-norm attack: `carlini_wagner` and `carlini_wagner_linf` are. FOSC, section 4.1
    (30 steps); Madry et al. 2018. Arguments as `pgd`.
    """
    return pgd(threat, step_size=step_size, steps=steps, start=start, loss=losses.margin, keep=keep)


def fgsm(
    threat: ThreatModel,
    *,
    step_size: Scalar | None = None,
    start: Start = starts.clean,
    loss: Loss = losses.cross_entropy,
    keep: Keep = "last",
) -> FirstOrder:
    """FGSM: one steepest step of length `step_size` (default: the radius) from the clean point.

    Goodfellow et al. 2015. With `start=starts.uniform` it is FGSM-RS (Wong's thesis, Algorithm 7),
    for which the thesis uses step_size = 1.25 radius. Returns the point stepped to.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxrobust import attacks, threats
      >>> f = lambda x: jnp.stack([x[0], x[1]])
      >>> x, y = jnp.array([0.55, 0.45]), jnp.int32(0)
      >>> attacks.fgsm(threats.Linf(0.1))(jax.random.key(0), f, x, y).x.round(2).tolist()
      [0.449..., 0.55...]
    """
    step_size = threat.radius if step_size is None else step_size
    return pgd(threat, step_size=step_size, steps=1, start=start, loss=loss, keep=keep)


def _momentum(
    key: Key, threat: ThreatModel, *, step_size: Scalar, decay: Scalar
) -> optax.GradientTransformation:
    del key
    return optax.chain(
        normalize_by_l1(),
        optax.trace(decay),
        scale_by_steepest(threat),
        optax.scale_by_learning_rate(step_size),
    )


def momentum(
    threat: ThreatModel,
    *,
    step_size: Scalar,
    steps: int,
    decay: Scalar = 1.0,
    start: Start = starts.clean,
    loss: Loss = losses.cross_entropy,
    keep: Keep = "best",
) -> FirstOrder:
    """MI-FGSM: v <- decay v + g / ||g||_1, then a steepest step along v.

    Dong et al. 2018, Algorithm 1 (which starts at the clean point; so does this by default).
    The velocity accumulates normalized gradients, never their signs.

    Args:
      decay: of the velocity from step to step.
      threat, step_size, steps, start, loss, keep: as `pgd`.
    """
    return first_order(
        threat,
        _momentum,
        {"step_size": step_size, "decay": decay},
        steps=steps,
        start=start,
        loss=loss,
        keep=keep,
        scales=("step_size",),
    )
