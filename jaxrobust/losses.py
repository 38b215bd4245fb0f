"""Losses of one example: logits `[K]` and an integer label to a scalar. Batches are `vmap` axes.

Attacks maximize them; training minimizes their means. All are differentiable in the logits
(at ties, JAX's subgradient) and stay finite for logit gaps far beyond float32's exp range.
Logits carry no softmax.

Batches, and labels past the end, would be indexed all the same: logits must be `[K]` of two or more
classes, and a label one integer and, where its value is known on the host, one of the K classes.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrobust import checks
from jaxrobust.types import Array


def _require(logits: Array, y: Array, name: str = "y") -> None:
    """Raises ValueError unless the logits are `[K]`, K at least 2, and `y` one of the classes."""
    _require_logits(logits)
    checks.label(name, y, num_classes=logits.shape[0])


def _require_logits(logits: Array) -> None:
    """Raises ValueError unless the logits are `[K]`, K at least 2."""
    if jnp.ndim(logits) != 1 or jnp.shape(logits)[0] < 2:
        raise ValueError(
            f"logits must have shape [K] with at least 2 classes, got {jnp.shape(logits)}; "
            "map over a batch with jax.vmap"
        )


def _wrong(logits: Array, y: Array) -> Array:
    """The logits with the label's replaced by -inf."""
    _require(logits, y)
    classes = jnp.arange(logits.shape[-1], dtype=jnp.result_type(y))
    return jnp.where(classes == y, -jnp.inf, logits)


def margin(logits: Array, y: Array) -> Array:
    """max_{j != y} z_j - z_y, C&W's f: negative exactly where the label is predicted.

    Positive where another class is, and 0 where the label ties with one, which counts as wrong.

    Args:
      logits: `[K]`.
      y: the label, an integer scalar.

    Returns:
      The margin, a scalar in units of the logits.

    Raises:
      ValueError: unsuitable logits or label, see the module.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxrobust import losses
      >>> float(losses.margin(jnp.array([2.0, 5.0, 1.0]), jnp.int32(0)))
      3.0
    """
    return jnp.max(_wrong(logits, y)) - logits[y]


def targeted_margin(logits: Array, y: Array, target: Array) -> Array:
    """z_t - z_y, BETA's M_t (BETA, eq. 15 ff.).

    Args:
      logits: `[K]`.
      y: the label, an integer scalar.
      target: the target class t, an integer scalar.

    Returns:
      The difference, a scalar in units of the logits.

    Raises:
      ValueError: unsuitable logits, label or target, see the module.
    """
    _require(logits, y)
    _require(logits, target, "target")
    return logits[target] - logits[y]


def targeted_cross_entropy(logits: Array, y: Array, target: Array) -> Array:
    """log p_t: maximized when the target class is certain; the label is not used.

    Args:
      logits: `[K]`.
      y: the label, an integer scalar, for the signature's sake.
      target: the target class t, an integer scalar.

    Returns:
      The log-probability of the target class, a scalar of at most 0, in nats.

    Raises:
      ValueError: unsuitable logits or target, see the module.
    """
    del y
    _require(logits, target, "target")
    return -cross_entropy(logits, target)


def error_log_odds(logits: Array, y: Array) -> Array:
    """log((1 - p_y) / p_y) = logsumexp(z_{j != y}) - z_y, a smooth `margin`; exact at any gap.

    Args:
      logits: `[K]`.
      y: the label, an integer scalar.

    Returns:
      The log-odds of an error, a scalar in nats; at least the margin.

    Raises:
      ValueError: unsuitable logits or label, see the module.
    """
    return jax.nn.logsumexp(_wrong(logits, y)) - logits[y]


def cross_entropy(logits: Array, y: Array) -> Array:
    """-log p_y = softplus(error_log_odds).

    The usual logsumexp(z) - z_y has the gradient p - onehot(y), whose label entry vanishes in
    float32 once p_y rounds to 1 (a gap of about 17): attacks on confident models would climb
    noise. This form keeps every entry exact up to a gap of about 87 in float32 (where exp
    underflows); beyond that `margin`, `error_log_odds` and `log_cross_entropy` still rise.

    Args:
      logits: `[K]`.
      y: the label, an integer scalar.

    Returns:
      The cross-entropy, a scalar of at least 0, in nats.

    Raises:
      ValueError: unsuitable logits or label, see the module.
    """
    return jax.nn.softplus(error_log_odds(logits, y))


def log_error_probability(logits: Array, y: Array) -> Array:
    """log(1 - p_y) = logsumexp(z_{j != y}) - logsumexp(z): DALE's U for l_pert = 1 - p_y.

    Computed as -softplus(-error_log_odds): 1 - p_y itself underflows in float32 at a logit gap of
    about 17, and the difference of the two log-sum-exps loses its gradient to rounding once p_y
    is small (an attack would then follow noise). DALE, Algorithm 1 line 5.

    Args:
      logits: `[K]`.
      y: the label, an integer scalar.

    Returns:
      The log-probability of an error, a scalar of at most 0, in nats.

    Raises:
      ValueError: unsuitable logits or label, see the module.
    """
    return -jax.nn.softplus(-error_log_odds(logits, y))


def log_cross_entropy(logits: Array, y: Array) -> Array:
    """log CE(z, y): DALE's U for l_pert = cross-entropy.

    CE = softplus(u) with u = `error_log_odds`, which rounds to zero for u far below 0; there
    log CE = u to within exp(u) / 2 stands in, so that value and gradient stay finite and exact.

    Args:
      logits: `[K]`.
      y: the label, an integer scalar.

    Returns:
      The logarithm of the cross-entropy in nats, a scalar of either sign.

    Raises:
      ValueError: unsuitable logits or label, see the module.
    """
    u = error_log_odds(logits, y)
    return jnp.where(u < -40, u, jnp.log(jax.nn.softplus(jnp.maximum(u, -40))))


def dlr(logits: Array, y: Array) -> Array:
    """Difference of logits ratio, -(z_y - max_{j != y} z_j) / (z_(1) - z_(3)); needs K >= 3.

    Croce & Hein 2020, eq. 6.

    Args:
      logits: `[K]`.
      y: the label, an integer scalar.

    Returns:
      The ratio, a scalar without units, of the sign of `margin`.

    Raises:
      ValueError: fewer than 3 classes (use `margin`), or unsuitable logits or label, see the
        module.
    """
    if logits.shape[-1] < 3:
        raise ValueError(f"dlr needs at least 3 classes, got {logits.shape[-1]}; use margin")
    top = jax.lax.top_k(logits, 3)[0]
    return margin(logits, y) / (top[0] - top[2] + 1e-12)


def targeted_dlr(logits: Array, y: Array, target: Array) -> Array:
    """-(z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2); needs K >= 4. Croce & Hein 2020, eq. 7.

    Args:
      logits: `[K]`.
      y: the label, an integer scalar.
      target: the target class t, an integer scalar.

    Returns:
      The ratio, a scalar without units, of the sign of `targeted_margin`.

    Raises:
      ValueError: fewer than 4 classes (use `targeted_margin`), or unsuitable logits, label
        or target, see the module.
    """
    if logits.shape[-1] < 4:
        raise ValueError(
            f"targeted_dlr needs at least 4 classes, got {logits.shape[-1]}; use targeted_margin"
        )
    top = jax.lax.top_k(logits, 4)[0]
    return targeted_margin(logits, y, target) / (top[0] - (top[2] + top[3]) / 2 + 1e-12)


def dlr_or_margin(logits: Array, y: Array) -> Array:
    """`dlr`, or `margin` for K = 2, where DLR does not exist.

    K is a shape, so that the choice falls while tracing.

    Args:
      logits: `[K]`.
      y: the label, an integer scalar.

    Returns:
      The value of the loss chosen, a scalar.

    Raises:
      ValueError: unsuitable logits or label, see the module.
    """
    return (margin if logits.shape[-1] < 3 else dlr)(logits, y)


def targeted_dlr_or_margin(logits: Array, y: Array, target: Array) -> Array:
    """`targeted_dlr`, or `targeted_margin` for K <= 3, where it does not exist.

    The loss of APGD-T. K is a shape, so that the choice falls while tracing.

    Args:
      logits: `[K]`.
      y: the label, an integer scalar.
      target: the target class t, an integer scalar.

    Returns:
      The value of the loss chosen, a scalar.

    Raises:
      ValueError: unsuitable logits, label or target, see the module.
    """
    loss = targeted_margin if logits.shape[-1] < 4 else targeted_dlr
    return loss(logits, y, target)


def kl(logits: Array, reference: Array) -> Array:
    """KL(softmax(reference) || softmax(logits)); gradients flow through both. TRADES, eq. 5.

    Args:
      logits: `[K]`, of the second distribution.
      reference: logits `[K]` of the first distribution, by which the terms are weighted.

    Returns:
      The divergence in nats, a scalar of at least 0 up to rounding.

    Raises:
      ValueError: unsuitable logits, see the module, or a `reference` of another shape.
    """
    _require_logits(logits)
    if jnp.shape(reference) != logits.shape:
        raise ValueError(
            f"logits and reference must have one shape, got {logits.shape} and "
            f"{jnp.shape(reference)}"
        )
    log_p = jax.nn.log_softmax(reference)
    return jnp.sum(jnp.exp(log_p) * (log_p - jax.nn.log_softmax(logits)))


def boosted_cross_entropy(logits: Array, y: Array) -> Array:
    """MART's BCE: CE - log(1 - p_k), k the likeliest wrong class (Wang et al. 2020, eq. 7).

    log(1 - p_k) is taken in log-sum-exp form instead of the released code's 1.0001 - p_k
    offset, with which it agrees to 1e-4 / (1 - p_k).

    Args:
      logits: `[K]`.
      y: the label, an integer scalar.

    Returns:
      The loss in nats, a scalar of at least the cross-entropy.

    Raises:
      ValueError: unsuitable logits or label, see the module.
    """
    rival = jnp.argmax(_wrong(logits, y))
    return cross_entropy(logits, y) - log_error_probability(logits, rival)


def hinge(score: Array, y: Array) -> Array:
    """max(0, 1 - y f) for a scalar score f and y in {-1, +1}. TRADES, section 5.2.

    Args:
      score: f, a scalar.
      y: the label -1 or +1, a scalar of any type of number.

    Returns:
      The loss, a scalar: 0 where y f is at least 1, and positive elsewhere.
    """
    return jnp.maximum(0.0, 1.0 - jnp.asarray(y, jnp.result_type(score)) * score)
