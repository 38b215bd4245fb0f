"""Empirical risk minimization: the undefended baseline."""

from __future__ import annotations

from typing import Any

from jaxrobust.defenses.base import Aux, Defense, forward, metrics_of, no_state
from jaxrobust.types import Array, Batch, Key, Model, Scalar, Variables


def erm() -> Defense:
    """Minimizes the mean cross-entropy of clean examples (DALE, P-NOM)."""

    def loss(
        key: Key,
        model: Model,
        variables: Variables,
        batch: Batch,
        *,
        nu: Array | None,
        state: Any,
        progress: Scalar,
        axes: tuple[str, ...],
    ) -> tuple[Array, Aux]:
        del nu, progress
        logits, variables = forward(key, model, variables, batch.x, axes=axes)
        metrics = metrics_of(batch.y, clean=logits)
        return metrics["clean_loss"], Aux(variables.stats, state, metrics)

    return Defense(no_state, loss)
