"""Certified <= attacked <= clean: it holds, and whatever breaks it is named."""

import csv
import dataclasses
import io
import json

import jax
import numpy as np
import pytest
from evaluation_models import data, exact_robust, linear, weights
from rich.console import Console

from jaxrobust.attacks import fgsm, targeted
from jaxrobust.duals.certificates import certify
from jaxrobust.evaluation import (
    AttackReport,
    CertifiedReport,
    Report,
    SandwichError,
    Timing,
    accuracy,
    certified,
    evaluate,
    sandwich,
    standard_error,
)
from jaxrobust.threats import Linf

MODEL = linear()[0]
ONCE = Timing(first=1.0, rest=0.0, batches=1)
OPTIONS = {"batch_size": 32, "progress": False, "devices": jax.devices()[:1]}


def unsound(key, f, x, y, threat):
    """Wong-Kolter bounds, one hundredth of the radius too small."""
    small = dataclasses.replace(threat, radius=0.01 * threat.radius)
    return certify(f, x, y, small, methods=("wong_kolter",))


def attacked(radius=0.04):
    attacks = {"weak": fgsm(Linf(0.2 * radius)), "exact": targeted(fgsm(Linf(radius)))}
    return evaluate(jax.random.key(0), MODEL, weights(), data(), attacks, **OPTIONS)


@pytest.fixture(scope="module")
def report():
    return attacked()


def proofs(radius=0.04, **options):
    return certified(MODEL, weights(), data(), Linf(radius), **OPTIONS, **options)


def masks(clean, broken, proved):
    """A report with an attack for each mask of what it broke, and certificates."""
    clean, broken, proved = (np.asarray(m, bool) for m in (clean, broken, proved))
    base = attacked_report(clean, {f"a{i}": clean & ~b for i, b in enumerate(broken)})
    n = len(clean)
    numbers = np.zeros(n)
    return base, CertifiedReport(clean, proved, np.zeros((n, 2)), numbers, numbers, ONCE, {})


def attacked_report(clean, robust):
    n = len(clean)
    rest = (np.ones(n, bool), np.zeros(n), np.zeros(n), 1.0, 1.0, ONCE)
    return Report(clean, ONCE, {k: AttackReport(r, *rest) for k, r in robust.items()}, {})


def test_exact_attacks_and_certificates_meet_and_a_smaller_set_is_between(report):
    x, y = data()
    expected = exact_robust(x, y, weights().params, 0.04)
    tight = sandwich(report, proofs())
    np.testing.assert_array_equal(tight.certified, expected)
    np.testing.assert_array_equal(tight.attacked, expected)
    assert not tight.undecided.any()
    assert 0 < expected.sum() < tight.clean.sum()
    loose = sandwich(report, proofs(0.05))
    assert np.all(loose.certified <= loose.attacked)
    assert np.all(loose.attacked <= loose.clean)
    assert loose.undecided.sum() == expected.sum() - loose.certified.sum() > 0
    alone = sandwich(dataclasses.replace(report, attacks={}), proofs())
    np.testing.assert_array_equal(alone.attacked, report.clean)


def test_an_unsound_bound_is_named_with_its_examples_and_the_attack(report):
    claimed = proofs(certifier=unsound)
    fell = np.flatnonzero(claimed.certified & ~report.attacks["exact"].robust)
    weak = np.flatnonzero(claimed.certified & ~report.attacks["weak"].robust)
    assert 0 < weak.size < fell.size
    with pytest.raises(SandwichError) as error:
        sandwich(report, claimed)
    message = str(error.value)
    assert message.startswith(f"{fell.size} certified examples are not robust")
    assert f"{weak[0]}" in message
    assert "broken by 'weak'" in message
    # who falls to both is counted once, for the first
    assert message.count("broken by 'exact'") == 1
    # attacks on a larger set look the same, and are refused the same way
    with pytest.raises(SandwichError, match="do not lie in the certified set"):
        sandwich(attacked(0.1), proofs())


@pytest.mark.parametrize(
    ("clean", "broken", "proved", "message"),
    [
        ([1, 1, 0], [[0, 0, 1]], [1, 0, 0], None),
        ([1, 1, 1], [[0, 1, 0], [0, 1, 1]], [1, 0, 0], None),
        ([1, 1, 0], [[0, 0, 0]], [1, 0, 1], r"^1 certified .*: 2 misclassified\."),
        ([1, 1, 1], [[0, 1, 0], [0, 1, 1]], [1, 1, 0], r"^1 .*: 1 broken by 'a0'\."),
        ([1, 1, 1], [[0, 1, 0], [0, 1, 1]], [0, 1, 1], r": 1 broken by 'a0'; 2 broken by 'a1'\."),
        ([1] * 12, [[1] * 12], [1] * 12, r"8, 9 and 2 more broken by 'a0'"),
    ],
)
def test_every_contradiction_is_found(clean, broken, proved, message):
    reports = masks(clean, broken, proved)
    if message is None:
        found = sandwich(*reports)
        assert found.certified.tolist() == [bool(p) for p in proved]
    else:
        with pytest.raises(SandwichError, match=message):
            sandwich(*reports)


def test_reports_of_different_examples_or_models_are_refused():
    report, _ = masks([1, 1, 0], [[0, 0, 0]], [0, 0, 0])
    with pytest.raises(ValueError, match="saw 3 examples, the certificates 2"):
        sandwich(report, masks([1, 1], [[0, 0]], [0, 0])[1])
    with pytest.raises(ValueError, match=r"classified correctly \(1, 2\)"):
        sandwich(report, masks([1, 0, 1], [[0, 0, 0]], [0, 0, 0])[1])


def test_figures_are_shown_and_saved(tmp_path):
    report, claims = masks([1, 1, 1, 0], [[0, 0, 1, 0]], [1, 0, 0, 0])
    report = dataclasses.replace(report, metadata={"data": "four"})
    claims = dataclasses.replace(claims, delta=np.full(4, 0.01), metadata={"bounds": "ours"})
    found = sandwich(report, claims)
    found.save(tmp_path / "eps_0.3")
    text = (tmp_path / "eps_0.3.md").read_text()
    assert text == found.to_markdown()
    assert text.startswith("4 examples; data: four; bounds: ours\n")
    for row in (
        "| correct | 75.00 | 21.65 |",
        "| unbroken by attacks | 50.00 | 25.00 |",
        "| certified (probabilistic) | 25.00 | 21.65 |",
        "| undecided | 25.00 | 21.65 |",
    ):
        assert row in text
    rows = list(csv.DictReader(io.StringIO((tmp_path / "eps_0.3.csv").read_text())))
    assert rows[1] == {"index": "1", "clean": "1", "attacked": "1", "certified": "0"}
    saved = json.loads((tmp_path / "eps_0.3.json").read_text())
    assert saved["kind"] == "probabilistic"
    assert saved["count"] == 4
    attacked = {"accuracy": accuracy(found.attacked)}
    attacked["standard_error"] = standard_error(found.attacked)
    assert saved["attacked"] == attacked
    console = Console(record=True, width=80, file=io.StringIO())
    found.print(console)
    assert "unbroken by attacks" in console.export_text()
