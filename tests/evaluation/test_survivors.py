"""Attacking survivors only, and AutoAttack run that way."""

import jax
import numpy as np
import pytest
from evaluation_models import data, exact_robust, linear, weights

from jaxrobust import attacks
from jaxrobust.evaluation import Report, evaluate
from jaxrobust.threats import L2, Linf

KEY = jax.random.key(0)


def run(suite, *, survivors, model=None, count=29):
    model = model or linear()[0]
    return evaluate(
        KEY, model, weights(), data(count), suite, batch_size=8, survivors=survivors, progress=False
    )


def weak_to_strong():
    sizes = {"a": 0.003, "b": 0.006, "c": 0.01}
    return {name: attacks.fgsm(Linf(0.01), step_size=step) for name, step in sizes.items()}


def test_survivors_only_gives_the_same_verdicts_at_less_cost(tmp_path):
    alone = run(weak_to_strong(), survivors=False)
    chained = run(weak_to_strong(), survivors=True)
    standing = alone.clean
    for name, attack in alone.attacks.items():
        spent = chained.attacks[name].forwards * alone.count
        # one step, one fresh prediction, and that of the clean example
        assert spent == pytest.approx(3 * standing.sum())
        seen = np.isfinite(chained.attacks[name].norm)
        np.testing.assert_array_equal(seen, standing)
        standing = standing & attack.robust
        np.testing.assert_array_equal(chained.attacks[name].robust, standing)
    np.testing.assert_array_equal(chained.worst_case, alone.worst_case)
    assert 0 < standing.sum() < alone.clean.sum()

    chained.save(tmp_path / "report")
    loaded = Report.load(tmp_path / "report")
    np.testing.assert_array_equal(loaded.attacks["c"].norm, chained.attacks["c"].norm)
    assert loaded.to_markdown() == chained.to_markdown()


def test_attacks_go_on_when_nobody_is_left():
    suite = {name: attacks.fgsm(Linf(1.0)) for name in ("all", "none left")}
    report = run(suite, survivors=True)
    assert report.attacks["all"].accuracy == 0
    assert report.attacks["none left"].accuracy == 0


@pytest.mark.slow
def test_autoattack_finds_the_exact_robustness_of_a_linear_model():
    radius = 0.008
    suite = attacks.autoattack(Linf(radius), steps=20, queries=50)
    assert list(suite) == ["APGD-CE", "APGD-T", "FAB-T", "Square"]
    report = run(suite, survivors=True)
    x, y = data(29)
    expected = exact_robust(x, y, weights().params, radius)
    np.testing.assert_array_equal(report.worst_case, expected)
    assert 0 < expected.sum() < report.clean.sum()


def test_versions():
    plus = attacks.autoattack(L2(0.5), version="plus")
    assert list(plus) == ["APGD-CE", "APGD-DLR", "FAB", "Square", "APGD-T", "FAB-T"]
    with pytest.raises(ValueError, match="unknown version 'standart'; did you mean 'standard'"):
        attacks.autoattack(Linf(0.1), version="standart")
