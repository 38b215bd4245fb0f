"""Training on certified bounds: minimize the loss at the worst logits a dual cannot exclude."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import checks
from jaxrobust.attacks.batch import example_keys
from jaxrobust.defenses.base import (
    Defense,
    LossOutput,
    TrainContext,
    accuracy,
    forward,
    mean_cross_entropy,
    metrics_of,
    no_state,
)
from jaxrobust.defenses.ramp import share_done
from jaxrobust.duals.bounds import margin_bounds
from jaxrobust.duals.projections import projected_margin_bounds
from jaxrobust.duals.relaxed_network import check_methods
from jaxrobust.threats.covering import warn_of_covering
from jaxrobust.types import Array, Batch, Key, LogitsFn, Model, Scalar, ThreatModel, Variables


def dual(
    threat: ThreatModel,
    *,
    methods: Sequence[str] = ("wong_kolter",),
    samples: int | None = None,
    clean_weight: Scalar = 0.0,
    ramp: Scalar = 0.5,
    first_radius: Scalar = 0.0,
    first_clean_weight: Scalar | None = None,
    boxed: bool = False,
    chunk: int | None = None,
) -> Defense:
    """Minimizes clean_weight * mean CE(f(x)) + (1 - clean_weight) * mean CE(robust logits of x).

    The robust logits are -J(e_y - e_j), minus the lower bounds of f_y - f_j over the ball, so that
    the second term bounds the loss of every attack from above (Wong's thesis, theorem 2 and
    eq. 3.26). Gradients flow through slopes and hidden bounds alike.

    `methods=("wong_kolter",)` alone is the thesis' loss. `("interval",)` is interval-bound training
    (Gowal et al. 2018, "On the effectiveness of interval bound propagation"): looser bounds for
    less. It easily sticks at the constant prediction; their recipe has first_clean_weight 1 and
    clean_weight .5. `samples=k` estimates hidden bounds from k random projections pushed forward,
    in place of a row pulled back for each unit (thesis, section 3.4; 50 in its tables): an
    estimate, whose `robust_error` is not a certified one.

    Bounds see the classifier in evaluation mode: running statistics and no dropout. The clean pass,
    in training mode, renews the statistics; they are constants of the bounds.

    Metrics: clean_loss, clean_accuracy, robust_loss, and robust_error, the share of the batch not
    certified at the current radius, in %.

    Args:
      threat: the ball at the end of training; Linf, L2, L1 or a union of them.
      samples: number of projections; None for exact norms.
      clean_weight: share of the clean loss, 0 to 1, at the end of the ramp.
      ramp: share of training over which the radius grows linearly from `first_radius` to the
        threat's (0: full from the start). At the full radius training can stick at the constant
        prediction (thesis, section 3.3.1; MNIST: .05 to .1 over the first half).
      first_clean_weight: share of the clean loss at the start, from which it moves to
        `clean_weight` along with the radius; None for a constant share.
      methods, boxed, chunk: see `duals.lower_bounds`; exact norms only.

    Raises:
      ValueError: an impossible setting, or `samples` with a setting that only exact bounds know.
    """
    first_weight = clean_weight if first_clean_weight is None else first_clean_weight
    _check_bounds(methods, samples, boxed, chunk)
    checks.fraction("clean_weight", clean_weight)
    checks.fraction("first_clean_weight", first_weight)
    checks.fraction("ramp", ramp)
    _check_radii(first_radius, threat.radius)

    def bounds(key: Key, f: LogitsFn, x: Array, y: Array, ball: ThreatModel) -> Array:
        if samples is None:
            return margin_bounds(f, x, y, ball, methods=methods, boxed=boxed, chunk=chunk)
        return projected_margin_bounds(key, f, x, y, ball, samples=samples)

    def loss(
        key: Key, model: Model, variables: Variables, batch: Batch, context: TrainContext
    ) -> tuple[Array, LossOutput]:
        warn_of_covering([threat], batch.x.shape[1:])
        bound_key, drop_key = jax.random.split(key)
        done = share_done(jnp.asarray(context.progress, batch.x.dtype), ramp)
        radius = first_radius + done * (jnp.asarray(threat.radius, done.dtype) - first_radius)
        ball = dataclasses.replace(threat, radius=radius)
        f = model.logits_fn(variables)
        keys = example_keys(bound_key, batch.index)
        robust = -jax.vmap(lambda k, x, y: bounds(k, f, x, y, ball))(keys, batch.x, batch.y)
        clean, renewed = forward(drop_key, model, variables, batch.x, axes=context.axes)
        metrics = metrics_of(batch.y, clean=clean)
        metrics["robust_loss"] = mean_cross_entropy(robust, batch.y)
        metrics["robust_error"] = 100 - accuracy(robust, batch.y)
        weight = first_weight + done * (clean_weight - first_weight)
        value = weight * metrics["clean_loss"] + (1 - weight) * metrics["robust_loss"]
        return value, LossOutput(renewed.stats, context.state, metrics)

    return Defense(no_state, loss)


def _check_bounds(
    methods: Sequence[str], samples: int | None, boxed: bool, chunk: int | None
) -> None:
    check_methods(methods)
    if samples is None:
        return
    checks.at_least("samples", samples, 1)
    if tuple(methods) != ("wong_kolter",) or boxed or chunk is not None:
        raise ValueError(
            f"samples={samples} estimates Wong-Kolter's bounds without the pixel box, but "
            f"methods={tuple(methods)}, boxed={boxed}, chunk={chunk} were asked for; leave those "
            "at their defaults, or samples at None"
        )


def _check_radii(first: Scalar, last: Scalar) -> None:
    checks.nonnegative("first_radius", first)
    known = checks.is_concrete(first) and checks.is_concrete(last)
    if known and np.any(np.asarray(first) > np.asarray(last)):
        raise ValueError(
            f"first_radius={first} is above the threat's radius {last}; the radius has to grow"
        )
