"""Moving averages of the parameters, beside a run without them."""

from __future__ import annotations

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from training.training_cases import assert_close, images, linear, sgd

from jaxrobust import defenses
from jaxrobust.training import averaged, averaging, fit


def test_the_average_follows_its_recurrence() -> None:
    optimizer, plain = averaging(optax.sgd(0.5), decay=0.8), optax.sgd(0.5)
    params = {"w": jnp.asarray([1.0, -2.0])}
    state, other = optimizer.init(params), plain.init(params)
    average = np.asarray(params["w"])
    for step in range(4):
        gradient = {"w": jnp.asarray([1.0, 0.25]) * (step + 1)}
        updates, state = optimizer.update(gradient, state, params)
        expected, other = plain.update(gradient, other, params)
        assert_close(updates, expected)
        params = optax.apply_updates(params, updates)
        average = 0.8 * average + 0.2 * np.asarray(params["w"])
        np.testing.assert_allclose(state.average["w"], average, rtol=1e-6)


def test_a_run_trains_as_without_and_resumes_with_its_average(tmp_path: Path) -> None:
    def train(folder: str, optimizer: optax.GradientTransformation) -> object:
        return fit(
            0, linear(), defenses.erm(), images(), optimizer, epochs=2, batch_size=16,
            run=tmp_path / folder, config={}, progress=False,
        ).state  # fmt: skip

    plain, kept = train("plain", sgd()), train("kept", averaging(sgd(), decay=0.9))
    assert_close(kept.variables, plain.variables)
    found = averaged(kept)
    assert np.abs(found.params["w"] - plain.variables.params["w"]).max() > 1e-3
    # The finished run is read back, average and all.
    assert_close(averaged(train("kept", averaging(sgd(), decay=0.9))), found)
    with pytest.raises(ValueError, match="this run keeps no average"):
        averaged(plain)


def test_mistakes_name_the_value() -> None:
    with pytest.raises(ValueError, match=r"decay must be below 1, got 1\.0"):
        averaging(sgd(), decay=1.0)
