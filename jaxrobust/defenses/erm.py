"""Empirical risk minimization: the undefended baseline."""

from __future__ import annotations

from jaxrobust.defenses.base import Aux, Defense, Moment, forward, metrics_of, no_state
from jaxrobust.types import Array, Batch, Key, Model, Variables


def erm() -> Defense:
    """Minimizes the mean cross-entropy of clean examples (DALE, P-NOM)."""

    def loss(
        key: Key, model: Model, variables: Variables, batch: Batch, moment: Moment
    ) -> tuple[Array, Aux]:
        logits, variables = forward(key, model, variables, batch.x, axes=moment.axes)
        metrics = metrics_of(batch.y, clean=logits)
        return metrics["clean_loss"], Aux(variables.stats, moment.state, metrics)

    return Defense(no_state, loss)
