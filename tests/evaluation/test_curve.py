"""Robust accuracy against the radius, on a linear model where it is known."""

import jax
import numpy as np
import pytest
from evaluation_models import data, exact_robust, linear, weights

from jaxrobust import losses
from jaxrobust.attacks import deepfool, fgsm, pgd, restarts, starts, targeted
from jaxrobust.evaluation import AttackReport, Report, Timing, curve, curve_of_norms, evaluate
from jaxrobust.threats import Linf
from jaxrobust.types import Attack

KEY = jax.random.key(0)
RADII = (0.0, 0.01, 0.03, 0.06, 0.3)


def run(attack, radii=RADII, model=None, examples=None, variables=None):
    model = linear()[0] if model is None else model
    variables = weights() if variables is None else variables
    examples = data() if examples is None else examples
    options = {"batch_size": 16, "devices": jax.devices()[:1], "progress": False}
    return curve(KEY, model, variables, examples, attack, radii, **options)


def test_matches_the_closed_form_with_one_compilation():
    model, calls = linear()
    run(lambda r: targeted(fgsm(Linf(r))), radii=RADII[:1], model=model)
    once = len(calls)
    model, calls = linear()
    found = run(lambda r: targeted(fgsm(Linf(r))), model=model)
    assert len(calls) == once
    expected = np.stack([exact_robust(*data(), weights().params, r) for r in RADII])
    np.testing.assert_array_equal(found.robust, expected)
    np.testing.assert_allclose(found.accuracies, 100 * expected.mean(1))
    assert len(set(found.accuracies)) >= 4
    p = expected.mean(1)
    np.testing.assert_allclose(found.standard_errors, 100 * np.sqrt(p * (1 - p) / len(data()[0])))


def test_replaces_the_radius_of_an_attack():
    examples, variables = data(classes=2), weights(classes=2)
    step = pgd(Linf(7.0), step_size=1.0, steps=1, start=starts.clean, loss=losses.margin)
    found = run(step, examples=examples, variables=variables)
    expected = np.stack([exact_robust(*examples, variables.params, r) for r in RADII])
    np.testing.assert_array_equal(found.robust, expected)


def test_what_breaks_in_a_small_ball_breaks_in_a_large_one():
    # An attack that misses at the larger radius.
    def make(radius):
        attack = targeted(fgsm(Linf(radius)))
        return attack if radius < 0.1 else fgsm(Linf(radius), step_size=0.0)

    found = run(make, radii=(0.06, 0.3))
    np.testing.assert_array_equal(found.robust[0], found.robust[1])
    assert found.robust[0].sum() < found.clean.sum()


@pytest.mark.parametrize("radii", [(), (0.1, 0.1), (0.2, 0.1), (-0.1,), (0.1, np.nan), 0.1])
def test_refuses_radii_that_make_no_curve(radii):
    with pytest.raises(ValueError, match="radii"):
        run(lambda r: fgsm(Linf(r)), radii=radii)


def test_refuses_an_attack_without_a_threat_of_its_own():
    wrapped = restarts(pgd(Linf(0.1), step_size=0.1, steps=1), 2)
    assert isinstance(wrapped, Attack)
    with pytest.raises(ValueError, match="threat"):
        run(wrapped)


def test_one_run_of_least_norms_gives_the_closed_form_at_every_radius():
    options = {"batch_size": 16, "devices": jax.devices()[:1], "progress": False}
    attacks = {"none left": fgsm(Linf(1.0)), "least": deepfool(Linf(0.01), overshoot=1e-4)}
    report = evaluate(KEY, linear()[0], weights(), data(), attacks, **options)
    # Norms exceed the least one by the overshoot: radii away from any are decided alike.
    norms = np.sort(report.attacks["least"].norm)
    gaps = np.flatnonzero(np.diff(norms) > 1e-3)[::4]
    radii = [0.0, *(norms[gaps] + norms[gaps + 1]) / 2, 1.0]
    assert len(radii) >= 4
    assert radii[-2] > 0.01  # beyond the radius that the attack was run with
    found = curve_of_norms(report, "least", radii)
    expected = np.stack([exact_robust(*data(), weights().params, r) for r in radii])
    np.testing.assert_array_equal(found.robust, expected)
    np.testing.assert_array_equal(found.clean, report.clean)


def least_norms(**changes):
    fields = {
        "robust": np.ones(4, bool),
        "inside": np.ones(4, bool),
        "norm": np.asarray([0.1, 0.2, 0.0, 0.0]),
        "margin": np.asarray([0.5, np.nan, -1.0, 0.0]),
        "forwards": 1.0,
        "backwards": 1.0,
        "timing": Timing(1.0, 0.0, 1),
    }
    clean = np.asarray([True, True, True, False])
    attack = AttackReport(**{**fields, **changes})
    return Report(clean, Timing(1.0, 0.0, 1), {"least": attack}, {})


def test_nan_and_failures_of_a_least_norm_count_as_they_must():
    # Found at .1; NaN at .2 fools; nothing found; wrong from the start.
    found = curve_of_norms(least_norms(), "least", [0.0, 0.1, 0.15, 0.2])
    assert found.robust.T.tolist() == [
        [True, False, False, False],
        [True, True, True, False],
        [True, True, True, True],
        [False, False, False, False],
    ]


def test_refuses_norms_of_examples_that_were_not_attacked():
    gaps = least_norms(norm=np.asarray([0.1, np.nan, 0.0, 0.0]))
    with pytest.raises(ValueError, match=r"no norm for 1 of 4 examples.*survivors=False"):
        curve_of_norms(gaps, "least", [0.1])
    with pytest.raises(ValueError, match="unknown attack 'lest'; did you mean 'least'"):
        curve_of_norms(least_norms(), "lest", [0.1])
    with pytest.raises(ValueError, match="radii"):
        curve_of_norms(least_norms(), "least", [0.2, 0.1])
