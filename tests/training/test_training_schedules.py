"""Learning-rate schedules against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from jaxrobust.training import schedule

KEY_VALUES = {
    "constant": ({}, 100, {0: 1.0, 99: 1.0}),
    # Step 50 is the first of the lower rate, as in PyTorch's MultiStepLR.
    "piecewise": ({}, 100, {0: 1.0, 49: 1.0, 50: 0.1, 74: 0.1, 75: 0.01, 99: 0.01}),
    "linear": ({}, 100, {0: 1.0, 25: 0.75, 50: 0.5, 100: 0.0}),
    "cosine": ({}, 100, {0: 1.0, 25: 0.5 * (1 + math.cos(math.pi / 4)), 50: 0.5, 100: 0.0}),
    "cyclic": ({}, 100, {0: 0.0, 20: 0.5, 40: 1.0, 70: 0.5, 100: 0.0}),
    "multi_step": (
        {},
        100,
        {0: 1.0, 9: 1.0, 10: 0.5, 20: 0.25, 55: 0.5**5, 99: 0.5**9, 100: 0.5**10},
    ),
}


@pytest.mark.parametrize("name", KEY_VALUES)
@pytest.mark.parametrize("peak", [1.0, 0.02])
def test_key_steps(name: str, peak: float) -> None:
    options, steps, values = KEY_VALUES[name]
    rate = schedule(name, peak, steps, **options)
    for step, expected in values.items():
        found = float(rate(np.int32(step)))
        np.testing.assert_allclose(found, peak * expected, rtol=1e-5, atol=1e-7, err_msg=str(step))


def test_options_reach_the_schedule() -> None:
    dale = schedule("piecewise", 0.1, 1200, at=(75 / 120, 90 / 120, 100 / 120), factor=0.1)
    for step, expected in {749: 0.1, 750: 0.01, 900: 1e-3, 999: 1e-3, 1000: 1e-4}.items():
        np.testing.assert_allclose(float(dale(step)), expected, rtol=1e-5)
    np.testing.assert_allclose(float(schedule("cyclic", 1.0, 10, top=0.5)(5)), 1.0)


def test_two_falls_on_one_step_of_a_short_run_both_count() -> None:
    short = schedule("piecewise", 1.0, 3)
    np.testing.assert_allclose([float(short(i)) for i in range(3)], [1, 1, 0.01], rtol=1e-6)


def test_wrong_schedules_are_refused() -> None:
    with pytest.raises(ValueError, match="schedule 'cosin'; did you mean 'cosine'"):
        schedule("cosin", 0.1, 10)
    with pytest.raises(ValueError, match="peak"):
        schedule("cosine", -0.1, 10)
    with pytest.raises(ValueError, match="steps"):
        schedule("cosine", 0.1, 0)
    with pytest.raises(TypeError, match="tip"):
        schedule("cyclic", 0.1, 10, tip=0.3)
