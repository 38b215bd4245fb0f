"""Empirical risk minimization: the undefended baseline."""

from __future__ import annotations

from jaxrobust.defenses.base import Defense, LossOutput, TrainContext, forward, metrics_of, no_state
from jaxrobust.types import Array, Batch, Key, Model, Variables


def erm() -> Defense:
    """Minimizes the mean cross-entropy of clean examples (DALE, P-NOM)."""

    def loss(
        key: Key, model: Model, variables: Variables, batch: Batch, context: TrainContext
    ) -> tuple[Array, LossOutput]:
        logits, variables = forward(key, model, variables, batch.x, axes=context.axes)
        metrics = metrics_of(batch.y, clean=logits)
        return metrics["clean_loss"], LossOutput(variables.stats, context.state, metrics)

    return Defense(no_state, loss)
