"""Certificates: what a bound proves of one prediction, and how sure the proof is."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp

from jaxrobust import checks, losses
from jaxrobust.duals.bounds import margin_bounds
from jaxrobust.duals.relaxed_network import METHODS
from jaxrobust.types import Array, LogitsFn, ThreatModel

KINDS = ("deterministic", "probabilistic", "estimate")
"""Proved; true with probability at least 1 - delta; or a guess, which proves nothing."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Certificate:
    """Bounds of one prediction over a ball, and the kind of statement that they are.

    Under `vmap` every array has leading axes; the properties go along. ValueError for an unknown
    kind.
    """

    lower: Array
    """[K]: lower bounds of f_y(x') - f_j(x') over all x' of the ball; 0 at j = y."""
    y: Array
    """The label that the bounds are about."""
    delta: Array
    """Probability that some bound fails: 0 if "deterministic", NaN (unknown) if "estimate"."""
    kind: Literal["deterministic", "probabilistic", "estimate"] = dataclasses.field(
        metadata={"static": True}
    )

    def __post_init__(self) -> None:
        checks.choice("kind of certificate", self.kind, KINDS)

    @property
    def certified(self) -> Array:
        """bool: the label holds over the whole ball, ties excluded.

        False where a bound is NaN or infinite, and for every "estimate".
        """
        if self.kind == "estimate":
            return jnp.zeros(jnp.shape(self.y), bool)
        # A label out of range leaves the row of zeros among the others, and nothing is certified.
        own = jax.nn.one_hot(self.y, self.lower.shape[-1], dtype=bool)
        return jnp.all(((self.lower > 0) & jnp.isfinite(self.lower)) | own, axis=-1)

    @property
    def robust_logits(self) -> Array:
        """[K]: upper bounds of f_j(x') - f_y(x'), logits of a worst case (thesis, section 3.1.4).

        Their cross-entropy bounds that of every point of the ball from above (theorem 2).
        """
        return -self.lower


def certify(
    f: LogitsFn,
    x: Array,
    y: Array,
    threat: ThreatModel,
    *,
    methods: Sequence[str] = METHODS,
    boxed: bool = False,
    chunk: int | None = None,
    bucket: int | None = None,
) -> Certificate:
    """Bounds that may prove that `f` predicts `y` in the whole ball around `x`.

    Float rounding is in the bounds already (docs/soundness.md). Wong's thesis, sections 3.1.1 and
    3.1.5; with the defaults never looser than intervals and mostly tighter than the released code,
    whose bound is `methods=("wong_kolter",)`. Differentiable but for `certified`.

    Args:
      f, threat, methods, boxed, chunk, bucket: see `lower_bounds`.
      x: one example of any shape.
      y: its label, an integer scalar.

    Returns:
      A `Certificate` of kind "deterministic": `lower`, `[K]`, the `margin_bounds` in the dtype and
      units of the logits, 0 at the label; `y`; and `delta`, the scalar 0. Its `certified`, a bool
      scalar, tells whether they prove the label.

    Raises:
      ValueError: as `lower_bounds`, and for fewer than two classes, of which nothing could be
        proved.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxrobust import duals, threats
      >>> w = jnp.array([[1.0, -1.0], [-1.0, 1.0]])
      >>> f = lambda x: w @ jax.nn.relu(x)
      >>> x, y = jnp.array([0.7, 0.3]), jnp.int32(0)
      >>> [bool(duals.certify(f, x, y, threats.Linf(r)).certified) for r in (0.1, 0.3)]
      [True, False]
    """
    lower = margin_bounds(f, x, y, threat, methods=methods, boxed=boxed, chunk=chunk, bucket=bucket)
    if lower.shape[0] < 2:
        raise ValueError(f"a certificate needs at least 2 logits, got {lower.shape[0]}")
    return Certificate(lower, jnp.asarray(y), jnp.zeros((), lower.dtype), "deterministic")


def robust_logits(
    f: LogitsFn,
    x: Array,
    y: Array,
    threat: ThreatModel,
    *,
    methods: Sequence[str] = METHODS,
    boxed: bool = False,
    chunk: int | None = None,
    bucket: int | None = None,
) -> Array:
    """The robust logits `certify(...).robust_logits`: a worst case over the ball.

    Args:
      f, x, y, threat, methods, boxed, chunk, bucket: as in `certify`, one example.

    Returns:
      Upper bounds of f_j(x') - f_y(x') over the ball, `[K]`, in the dtype and units of the logits;
      0 at j = y.

    Raises:
      ValueError: as `certify`.
    """
    return certify(
        f, x, y, threat, methods=methods, boxed=boxed, chunk=chunk, bucket=bucket
    ).robust_logits


def robust_loss(
    f: LogitsFn,
    x: Array,
    y: Array,
    threat: ThreatModel,
    *,
    methods: Sequence[str] = METHODS,
    boxed: bool = False,
    chunk: int | None = None,
    bucket: int | None = None,
) -> Array:
    """Cross-entropy of the robust logits: above that of every point of the ball.

    The objective of certified training (Wong's thesis, theorem 2 and eq. 3.26). Differentiable in
    the parameters that `f` closes over, in `x` and in the radius.

    Args:
      f, x, y, threat, methods, boxed, chunk, bucket: as in `certify`, one example.

    Returns:
      The cross-entropy, a scalar of at least 0, in nats.

    Raises:
      ValueError: as `certify`.
    """
    return losses.cross_entropy(
        robust_logits(f, x, y, threat, methods=methods, boxed=boxed, chunk=chunk, bucket=bucket), y
    )


def robust_error(
    f: LogitsFn,
    x: Array,
    y: Array,
    threat: ThreatModel,
    *,
    methods: Sequence[str] = METHODS,
    boxed: bool = False,
    chunk: int | None = None,
    bucket: int | None = None,
) -> Array:
    """Whether the label is not certified. Its mean bounds every attack's error from above.

    Args:
      f, x, y, threat, methods, boxed, chunk, bucket: as in `certify`, one example.

    Returns:
      A bool scalar: True where the label is not certified, and so also where `f` is wrong at `x`,
      and for NaN.

    Raises:
      ValueError: as `certify`.
    """
    return ~certify(
        f, x, y, threat, methods=methods, boxed=boxed, chunk=chunk, bucket=bucket
    ).certified


def detect(
    f: LogitsFn,
    x: Array,
    threat: ThreatModel,
    *,
    methods: Sequence[str] = METHODS,
    boxed: bool = False,
    chunk: int | None = None,
    bucket: int | None = None,
) -> Array:
    """Whether `x` may be adversarial, since its prediction is not certified around it.

    Wong's thesis, corollary 2. Where the result is False, all points of the ball around `x` have
    the prediction of `x`, so that `x` is no perturbation of a point predicted otherwise: no
    adversarial example of the ball escapes, while harmless inputs near a decision boundary are
    flagged too. With `boxed`, this holds for the points in the pixel box.

    Args:
      f, x, threat, methods, boxed, chunk, bucket: as in `certify`, one example.

    Returns:
      A bool scalar: True where `x` is flagged, as it is for ties and NaN.

    Raises:
      ValueError: as `certify`.
    """
    return robust_error(
        f, x, jnp.argmax(f(x)), threat, methods=methods, boxed=boxed, chunk=chunk, bucket=bucket
    )
