"""Certificates of one example by each method that the tables compare, and the radius they reach."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from jaxrobust.duals.bounds import margin_rows
from jaxrobust.duals.certificates import Certificate, certify
from jaxrobust.duals.optimized import optimized_bounds
from jaxrobust.duals.radius import certified_radius
from jaxrobust.duals.relaxed_network import METHODS
from jaxrobust.types import Array, Attack, AttackResult, Key, LogitsFn, Scalar, ThreatModel, static

CERTIFICATES: Mapping[str, Mapping[str, Any]] = {
    "interval": {"methods": ("interval",)},
    "Wong-Kolter": {"methods": ("wong_kolter",)},
    "best of three": {"methods": METHODS},
}
"""Columns of bounds and the settings of `certify`; the last one is the tightest."""
TIGHTEST = "best of three"
OPTIMIZED = "optimized"
"""Slopes ascended for every margin, on what the tightest bounds leave undecided."""


def optimized(
    key: Key, f: LogitsFn, x: Array, y: Array, threat: ThreatModel, *, steps: int, chunk: int | None
) -> Certificate:
    """A `Certifier` whose margins are those of `optimized_bounds`."""
    del key
    C = margin_rows(y, f(x).shape[0], x.dtype)
    lower = optimized_bounds(f, x, C, threat, steps=steps, chunk=chunk).lower
    return Certificate(lower, y, jnp.zeros((), lower.dtype), "deterministic")


def own(
    key: Key, f: LogitsFn, x: Array, y: Array, threat: ThreatModel, **options: object
) -> Certificate:
    """A `Certifier` of the prediction instead of the label, as cascades use."""
    del key, y
    return certify(f, x, jnp.argmax(f(x)), threat, **options)


class WidestRadius(Attack):
    """The largest certified radius of the prediction, as the `norm` of an attack's result.

    So that `evaluate` keeps it. `success` says that the prediction is wrong.
    """

    threat: ThreatModel
    upper: Scalar
    steps: int = static()
    chunk: int | None = static()

    def __call__(self, key: Key, f: LogitsFn, x: Array, y: Array) -> AttackResult:
        del key
        guess = jnp.argmax(f(x))
        radius, proof = certified_radius(
            f, x, guess, self.threat, upper=self.upper, steps=self.steps, chunk=self.chunk
        )
        nothing, none = jnp.zeros((), jnp.int32), jnp.zeros((), x.dtype)
        return AttackResult(
            x=x,
            success=guess != y,
            inside=jnp.ones((), bool),
            loss=none,
            margin=none,
            norm=jnp.where(proof.certified, radius, 0),
            forwards=nothing,
            backwards=nothing,
        )
