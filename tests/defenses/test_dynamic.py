"""Schedules of Dynamic and Curriculum training."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training.training_cases import CLASSES, SIZE, linear

from jaxrobust import attacks, defenses
from jaxrobust.defenses import Defense, Lesson, TrainContext
from jaxrobust.threats import Linf
from jaxrobust.types import Batch, Variables

DRAW = np.random.default_rng(0)
THREAT, OPTIONS = Linf(0.1), {"step_size": 0.02, "start": attacks.clean}
BATCH = Batch(
    jnp.asarray(DRAW.uniform(size=(16, SIZE)), jnp.float32),
    jnp.asarray(DRAW.integers(0, CLASSES, 16)),
    jnp.arange(16),
)
PARAMS = {"w": jnp.asarray(DRAW.normal(size=(SIZE, CLASSES)), jnp.float32), "b": jnp.zeros(CLASSES)}


def run(defense: Defense, **changes: Any) -> tuple[Any, Any]:
    settings = {"state": defense.init(), "progress": 0.0, **changes}

    @jax.jit
    def loss(settings: Any) -> Any:
        context = TrainContext(**settings)
        return defense.loss(jax.random.key(0), linear(), Variables(PARAMS), BATCH, context)

    return loss(settings)


def test_the_threshold_falls_to_zero() -> None:
    dynamic = defenses.dynamic(THREAT, steps=5, largest=2.0, until=0.8, **OPTIONS)
    found = []
    for progress, threshold in ((0.0, 2.0), (0.4, 1.0), (0.8, 0.0), (1.0, 0.0)):
        fixed = attacks.fosc_stopped_pgd(THREAT, steps=5, threshold=threshold, **OPTIONS)
        expected = run(defenses.adversarial(fixed))[0]
        found.append(run(dynamic, progress=progress)[0])
        np.testing.assert_allclose(found[-1], expected, rtol=1e-6)
    assert found[0] < found[1] < found[2] == found[3]


def test_weights_are_the_losses_with_mean_one() -> None:
    options = {"steps": 5, "largest": 0.0, **OPTIONS}
    point = attacks.pgd(THREAT, steps=5, keep="last", **OPTIONS)
    x = attacks.batched(point, jax.random.key(0), lambda x: x @ PARAMS["w"], BATCH.x, BATCH.y).x
    each = -jax.nn.log_softmax(x @ PARAMS["w"])[jnp.arange(16), BATCH.y]
    value = run(defenses.dynamic(THREAT, reweight=True, **options))[0]
    np.testing.assert_allclose(value, jnp.mean(each**2) / jnp.mean(each), rtol=1e-4)


def lesson(steps: int, accuracy: float = 0.0, best: float = 0.0, stalled: int = 0) -> Lesson:
    return Lesson(jnp.int32(steps), jnp.float32(accuracy), jnp.float32(best), jnp.int32(stalled))


def test_a_curriculum_starts_clean_and_grows_as_the_model_learns() -> None:
    options = {"steps": 3, "threshold": 50.0, "patience": 4, **OPTIONS}
    curriculum = defenses.curriculum(THREAT, **options)
    value, aux = run(curriculum)
    np.testing.assert_allclose(value, run(defenses.erm())[0], rtol=1e-6)
    accuracy = float(aux.metrics["adversarial_accuracy"])
    assert 0 < accuracy < 50
    # The moving average rises from 0.
    expected = lesson(0, 0.1 * accuracy, 0.1 * accuracy, 0)
    for a, b in zip(aux.state, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)

    learned = run(curriculum, state=lesson(1, accuracy=90.0, best=90.0))[1].state
    assert [float(a) for a in learned] == [2, 0, 0, 0]
    waits = run(curriculum, state=lesson(1, accuracy=40.0, best=45.0, stalled=2))[1].state
    assert (int(waits.steps), int(waits.stalled)) == (1, 3)
    stalled = run(curriculum, state=waits)[1].state
    assert [float(a) for a in stalled] == [2, 0, 0, 0]
    last = run(curriculum, state=lesson(3, accuracy=90.0, best=90.0, stalled=9))[1].state
    assert int(last.steps) == 3

    two = attacks.pgd(THREAT, steps=2, keep="last", **OPTIONS)
    value = run(curriculum, state=lesson(2))[0]
    np.testing.assert_allclose(value, run(defenses.adversarial(two))[0], rtol=1e-6)


@pytest.mark.parametrize("method", [defenses.dynamic, defenses.curriculum])
def test_the_radius_grows_with_the_ramp(method: Any) -> None:
    options = {"steps": 5, **OPTIONS}
    grown = method(THREAT, ramp=0.5, **options)
    state = lesson(5) if method is defenses.curriculum else ()
    plain = method(Linf(0.05), **(options | {"step_size": 0.01}))
    half = run(grown, state=state, progress=0.25)[0]
    np.testing.assert_allclose(half, run(plain, state=state, progress=0.25)[0], rtol=1e-6)
    full = run(method(THREAT, **options), state=state, progress=0.5)[0]
    np.testing.assert_allclose(run(grown, state=state, progress=0.5)[0], full, rtol=1e-6)
    assert half < full


def test_mistakes_name_the_value() -> None:
    with pytest.raises(ValueError, match="largest"):
        defenses.dynamic(THREAT, steps=5, largest=-1.0, **OPTIONS)
    with pytest.raises(ValueError, match="ramp"):
        defenses.dynamic(THREAT, steps=5, ramp=1.5, **OPTIONS)
    with pytest.raises(ValueError, match="steps must be a whole number of at least 1, got 0"):
        defenses.curriculum(THREAT, steps=0, **OPTIONS)
