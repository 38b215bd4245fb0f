"""Training by one attack and then by another: each is the plain method of its part."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
from defenses.test_dynamic import BATCH, PARAMS, THREAT
from training.training_cases import linear

from jaxrobust import attacks, defenses
from jaxrobust.defenses import Defense, TrainContext
from jaxrobust.types import Variables

WEAK = attacks.fgsm(THREAT, step_size=0.01)
STRONG = attacks.pgd(THREAT, step_size=0.02, steps=5, keep="last")


def loss(defense: Defense, progress: float) -> float:
    @jax.jit
    def run(progress: Any) -> Any:
        context = TrainContext(state=defense.init(), progress=progress)
        return defense.loss(jax.random.key(0), linear(), Variables(PARAMS), BATCH, context)[0]

    return float(run(np.float32(progress)))


@pytest.mark.slow
def test_each_part_is_its_own_method() -> None:
    both = defenses.phased(WEAK, STRONG, share=0.25)
    weak, strong = (loss(defenses.adversarial(a), 0.0) for a in (WEAK, STRONG))
    assert weak < strong
    for progress, expected in ((0.0, weak), (0.24, weak), (0.25, strong), (1.0, strong)):
        np.testing.assert_allclose(loss(both, progress), expected, rtol=1e-6)


@pytest.mark.slow
def test_radius_and_steps_of_both_grow() -> None:
    both = defenses.phased(WEAK, STRONG, share=0.25, ramp=0.5)
    for progress, attack in ((0.1, WEAK), (0.3, STRONG)):
        plain = defenses.adversarial(attack, ramp=0.5)
        np.testing.assert_allclose(loss(both, progress), loss(plain, progress), rtol=1e-6)


def test_one_program_runs_one_attack() -> None:
    """A condition of the whole batch, not a choice between two finished searches."""
    both = defenses.phased(WEAK, STRONG, share=0.25)

    def run(progress: Any) -> Any:
        context = TrainContext(state=(), progress=progress)
        return defense_loss(context)

    def defense_loss(context: TrainContext) -> Any:
        return both.loss(jax.random.key(0), linear(), Variables(PARAMS), BATCH, context)[0]

    assert " cond[" in str(jax.make_jaxpr(run)(np.float32(0.1)))


def test_mistakes() -> None:
    with pytest.raises(ValueError, match="share"):
        defenses.phased(WEAK, STRONG, share=1.5)
    with pytest.raises(TypeError, match=r"defenses\.phased\("):
        defenses.phased(THREAT, STRONG, share=0.5)  # pyright: ignore[reportArgumentType]
