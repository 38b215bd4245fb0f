"""Learning-rate schedules against values worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from jaxrobust.training import schedule

KEY_VALUES = {
    "constant": ({}, 100, {0: 1.0, 99: 1.0}),
    # Step 50 is the first of the lower rate, as in PyTorch's MultiStepLR.
    "piecewise": ({}, 100, {0: 1.0, 49: 1.0, 50: 0.1, 74: 0.1, 75: 0.01, 99: 0.01}),
    "linear": ({}, 100, {0: 1.0, 25: 0.75, 50: 0.5, 100: 0.0}),
    "staircase": ({}, 100, {0: 1.0, 9: 1.0, 10: 0.9, 55: 0.5, 89: 0.2, 90: 0.1, 100: 0.1}),
    "cosine": ({}, 100, {0: 1.0, 25: 0.5 * (1 + math.cos(math.pi / 4)), 50: 0.5, 100: 0.0}),
    "cyclic": ({}, 100, {0: 0.0, 20: 0.5, 40: 1.0, 70: 0.5, 100: 0.0}),
    "multi_step": (
        {},
        100,
        {0: 1.0, 9: 1.0, 10: 0.5, 20: 0.25, 55: 0.5**5, 99: 0.5**9, 100: 0.5**10},
    ),
    # 50 epochs: 0 to the peak over 20, to a twentieth over 20, to 0 over 10.
    "piecewise_linear": (
        {},
        100,
        {0: 0.0, 20: 0.5, 40: 1.0, 60: 0.525, 80: 0.05, 90: 0.025, 100: 0.0, 110: 0.0},
    ),
}


@pytest.mark.parametrize("name", KEY_VALUES)
@pytest.mark.parametrize("peak", [1.0, 0.02])
def test_key_steps(name: str, peak: float) -> None:
    options, steps, values = KEY_VALUES[name]
    rate = schedule(name, peak, steps, options)
    for step, expected in values.items():
        found = float(rate(np.int32(step)))
        np.testing.assert_allclose(found, peak * expected, rtol=1e-5, atol=1e-7, err_msg=str(step))


def test_options_reach_the_schedule() -> None:
    dale = schedule("piecewise", 0.1, 1200, {"at": (75 / 120, 90 / 120, 100 / 120), "factor": 0.1})
    for step, expected in {749: 0.1, 750: 0.01, 900: 1e-3, 999: 1e-3, 1000: 1e-4}.items():
        np.testing.assert_allclose(float(dale(step)), expected, rtol=1e-5)
    np.testing.assert_allclose(float(schedule("cyclic", 1.0, 10, {"top": 0.5})(5)), 1.0)
    part = schedule("linear", 0.1, 200, {"start": 0.5, "stop": 0.75, "end": 0.1})
    for step, expected in {0: 0.1, 100: 0.1, 125: 0.055, 150: 0.01, 199: 0.01}.items():
        np.testing.assert_allclose(float(part(step)), expected, rtol=1e-5)


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
    with pytest.raises(ValueError, match=r"increasing fractions.*at=\(0.5, 0.4\)"):
        schedule("piecewise_linear", 0.1, 10, {"at": (0.5, 0.4), "levels": (1.0, 0.0)})
    with pytest.raises(ValueError, match=r"a level for each.*levels=\(1.0,\)"):
        schedule("piecewise_linear", 0.1, 10, {"at": (0.4, 1.0), "levels": (1.0,)})
    with pytest.raises(TypeError, match="tip"):
        schedule("cyclic", 0.1, 10, tip=0.3)


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("piecewise", {"at": (0.5, 1.5)}, "at is a share, at most 1, got 1.5"),
        ("piecewise", {"factor": -0.1}, "factor"),
        ("linear", {"start": 0.9, "stop": 0.1}, "start=0.9 after stop=0.1"),
        ("staircase", {"stairs": 0}, "stairs"),
        ("cyclic", {"top": 2.0}, "top"),
        ("multi_step", {"every": 0.0}, "every must be finite and above 0"),
    ],
)
def test_impossible_options_are_refused(name: str, options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        schedule(name, 0.1, 10, options)
