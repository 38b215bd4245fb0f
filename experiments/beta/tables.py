"""BETA beside AutoAttack (Robey et al. 2023, Table 2)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import optax

from jaxrobust import attacks, losses
from jaxrobust.data import Dataset
from jaxrobust.evaluation import evaluate
from jaxrobust.types import Attack, Key, Scalar, ThreatModel

from ..common.recipes import Recipe
from ..common.rows import Outcome
from ..common.runner import EVAL_BATCH, judged_network
from ..common.tables import averaged

STEPS = 30
"""Steps of BETA and APGD-T in Table 2."""


def adam(key: Key, threat: ThreatModel, *, step_size: Scalar) -> optax.GradientTransformation:
    """Adam as everyone has it."""
    del key, threat
    return optax.adam(step_size)


def sgd(key: Key, threat: ThreatModel, *, step_size: Scalar) -> optax.GradientTransformation:
    """Plain gradient steps, not normalized: their length falls with the gradient's."""
    del key, threat
    return optax.sgd(step_size)


def aimed_attacks(recipe: Recipe) -> dict[str, Attack]:
    """BETA by four optimizers and APGD-T, 30 steps each; only the first is the paper's BETA.

    Steps are a quarter of the radius; "sign" are the steepest steps of multi-targeted PGD.
    """
    threat = recipe.threat
    budget = {"step_size": recipe.epsilon / 4, "steps": STEPS}
    by_target = {"targets": 9, "loss": losses.targeted_dlr_or_margin}
    return {
        "BETA": attacks.beta(threat, **budget),
        "BETA Adam": attacks.beta(threat, optimizer=adam, **budget),
        "BETA SGD": attacks.beta(threat, optimizer=sgd, **budget),
        "BETA sign": attacks.multi_targeted(threat, keep="last", **budget),
        "APGD-T": attacks.targeted(attacks.apgd(threat, steps=STEPS), **by_target),
    }


def table_2(
    outcomes: Sequence[Outcome],
    recipe: Recipe,
    dataset: Dataset,
    *,
    select: str,
    folder: Path,
    progress: bool,
) -> list[dict[str, Any]]:
    """Accuracies on the images that AutoAttack judged, by row; none where it judged none.

    The gap is BETA's accuracy minus AutoAttack's: what AutoAttack breaks and BETA does not.

    Args:
      select: the epoch, of those evaluated. folder: of the study; keeps results.
    """
    if not recipe.autoattack:
        return []
    model = judged_network(recipe, dataset)
    split = dataset.test.first(recipe.autoattack)
    table = []
    for method in dict.fromkeys(outcome.method for outcome in outcomes):
        runs = []
        for outcome in (o for o in outcomes if o.method == method):
            report = evaluate(
                jax.random.key(outcome.seed),
                model,
                outcome.trained[select],
                split,
                aimed_attacks(recipe),
                batch_size=min(EVAL_BATCH, split.size),
                num_classes=dataset.num_classes,
                progress=progress,
                folder=folder / "table2" / f"{method}-seed{outcome.seed}-{select}-{split.size}",
            )
            found = {name: attack.accuracy for name, attack in report.attacks.items()}
            found["AutoAttack"] = outcome.suites[select].worst_case_accuracy
            runs.append({**found, "gap": found["BETA"] - found["AutoAttack"]})
        table.append({"method": method, **averaged(runs)})
    return table
