"""Robust accuracy against the radius, on a linear model where it is known."""

import jax
import numpy as np
import pytest
from evaluation_models import data, exact_robust, linear, weights

from jaxrobust import losses
from jaxrobust.attacks import fgsm, pgd, restarts, starts, targeted
from jaxrobust.evaluation import curve
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
