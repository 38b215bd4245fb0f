"""Reports: sums over examples, and what is written to disk."""

import csv
import dataclasses
import io
import json

import numpy as np
import pytest
from rich.console import Console

from jaxrobust.evaluation import AttackReport, Report, Timing, standard_error

NAN = float("nan")


def attack(robust, **changes):
    robust = np.asarray(robust, bool)
    fields = {
        "robust": robust,
        "inside": np.ones(len(robust), bool),
        "norm": np.asarray([0.1, 0.2, NAN, 0.4]),
        "margin": np.asarray([-1.0, 0.5, np.inf, -np.inf]),
        "forwards": 11.0,
        "backwards": 10.0,
        "timing": Timing(first=2.0, rest=1.5, batches=4),
        "examples": np.zeros((4, 2)),
    }
    return AttackReport(**{**fields, **changes})


@pytest.fixture
def report():
    return Report(
        clean=np.asarray([1, 1, 0, 1], bool),
        clean_timing=Timing(first=1.0, rest=0.0, batches=1),
        attacks={"p|gd": attack([1, 0, 0, 0]), "[fab]": attack([0, 0, 0, 1])},
        metadata={"data": "Digits", "model": "tiny", "batch size": 16},
    )


def test_worst_case_is_the_intersection(report):
    assert report.worst_case.tolist() == [False] * 4
    assert report.attacks["p|gd"].accuracy == 25.0
    assert report.clean_accuracy == 75.0
    alone = Report(report.clean, report.clean_timing, {}, {})
    assert alone.worst_case.tolist() == [True, True, False, True]


def test_norms_are_averaged_over_the_predictions_that_turned_wrong(report):
    assert report.mean_norm("p|gd") == pytest.approx((0.2 + 0.4) / 2)
    assert report.mean_norm("[fab]") == pytest.approx((0.1 + 0.2) / 2)
    held = Report(report.clean, report.clean_timing, {"none": attack([1, 1, 0, 1])}, {})
    assert np.isnan(held.mean_norm("none"))


def test_standard_error_is_that_of_repeated_samples():
    rng = np.random.default_rng(0)
    means = 100 * rng.binomial(400, 0.7, size=20000) / 400
    mask = np.arange(400) < 280
    assert standard_error(mask) == pytest.approx(means.std(), rel=0.03)


def test_time_per_batch_leaves_the_first_out():
    assert Timing(first=9.0, rest=1.5, batches=4).steady == pytest.approx(0.5)
    assert np.isnan(Timing(first=9.0, rest=0.0, batches=1).steady)


def test_saves_and_loads(report, tmp_path):
    stem = tmp_path / "runs" / "eps_0.3"
    report.save(stem)
    report.save(stem)
    assert sorted(p.name for p in stem.parent.iterdir()) == [
        "eps_0.3.csv",
        "eps_0.3.json",
        "eps_0.3.md",
    ]
    loaded = Report.load(stem)
    assert loaded.metadata == report.metadata
    assert loaded.clean_timing == report.clean_timing
    np.testing.assert_array_equal(loaded.clean, report.clean)
    np.testing.assert_array_equal(loaded.worst_case, report.worst_case)
    assert list(loaded.attacks) == list(report.attacks)
    for name, a in report.attacks.items():
        b = loaded.attacks[name]
        for field in ("robust", "inside", "norm", "margin"):
            np.testing.assert_array_equal(getattr(b, field), getattr(a, field))
            assert getattr(b, field).dtype == getattr(a, field).dtype
        assert (b.timing, b.forwards, b.backwards) == (a.timing, a.forwards, a.backwards)
        assert b.examples is None
    assert loaded.to_markdown() == report.to_markdown()
    # Strict JSON: other readers know neither NaN nor Infinity.
    json.loads((stem.parent / "eps_0.3.json").read_text(), parse_constant=pytest.fail)


def test_csv_has_a_line_per_example(report):
    rows = list(csv.DictReader(io.StringIO(report.to_csv())))
    assert [row["index"] for row in rows] == ["0", "1", "2", "3"]
    assert [row["clean"] for row in rows] == ["1", "1", "0", "1"]
    assert [row["[fab]:robust"] for row in rows] == ["0", "0", "0", "1"]
    assert float(rows[1]["p|gd:norm"]) == 0.2


def with_examples(report):
    """The report with other examples for each attack, NaN among them, under names of any kind."""
    points = np.random.default_rng(0).random((2, 4, 3)).astype(np.float32)
    points[0, 1] = NAN
    names = ("file", "../PGD-20, 5 restarts")
    attacks = {
        name: dataclasses.replace(attack, examples=own)
        for name, attack, own in zip(names, report.attacks.values(), points, strict=True)
    }
    return dataclasses.replace(report, attacks=attacks)


def test_examples_are_saved_on_demand_and_read_back(report, tmp_path):
    report = with_examples(report)
    report.save(tmp_path / "a")
    assert not (tmp_path / "a.npz").exists()
    assert all(attack.examples is None for attack in Report.load(tmp_path / "a").attacks.values())
    report.save(tmp_path / "a", examples=True)
    with np.load(tmp_path / "a.npz") as held:
        for name, attack in report.attacks.items():
            np.testing.assert_array_equal(held[name], attack.examples, strict=True)
    for name, attack in Report.load(tmp_path / "a").attacks.items():
        wanted = report.attacks[name].examples
        np.testing.assert_array_equal(attack.examples, wanted, strict=True)
    # What is saved without examples afterwards has none, whatever lies beside it.
    report.save(tmp_path / "a")
    assert all(attack.examples is None for attack in Report.load(tmp_path / "a").attacks.values())


def test_examples_of_another_report_are_refused(report, tmp_path):
    with_examples(report).save(tmp_path / "a", examples=True)
    with pytest.raises(
        ValueError, match=r"holds no adversarial examples of any attack: evaluate w"
    ):
        dataclasses.replace(report, attacks={}).save(tmp_path / "b", examples=True)
    bare = {name: dataclasses.replace(a, examples=None) for name, a in report.attacks.items()}
    with pytest.raises(ValueError, match=r"examples of p\|gd, \[fab\]: .* keep_examples=True"):
        dataclasses.replace(report, attacks=bare).save(tmp_path / "b", examples=True)
    assert not (tmp_path / "b.json").exists()
    np.savez(tmp_path / "a.npz", other=np.zeros(3))
    with pytest.raises(ValueError, match=r"a\.npz does not hold the adversarial examples saved"):
        Report.load(tmp_path / "a")
    (tmp_path / "a.npz").unlink()
    with pytest.raises(FileNotFoundError, match=r"a\.npz, which the report was saved with, is not"):
        Report.load(tmp_path / "a")


def test_load_names_the_file_it_cannot_read(tmp_path):
    with pytest.raises(FileNotFoundError, match="none"):
        Report.load(tmp_path / "none")
    for text in ('{"clean": []}', "[1]", "{"):
        (tmp_path / "odd.json").write_text(text)
        with pytest.raises(ValueError, match=r"odd\.json is not a saved report"):
            Report.load(tmp_path / "odd")


def test_tables_show_every_row(report):
    markdown = report.to_markdown()
    assert "4 examples; data: Digits; model: tiny" in markdown
    assert "| clean | 75.00 | 21.65 |" in markdown
    assert "| p\\|gd | 25.00 | 21.65 | 0.3 | 11.0 | 10.0 | 2.00 | 1.50 |" in markdown
    assert "| worst case | 0.00 |" in markdown
    console = Console(record=True, width=140, file=io.StringIO())
    report.print(console)
    shown = console.export_text()
    for word in ("p|gd", "[fab]", "worst case", "75.00", "Digits"):
        assert word in shown


def test_a_table_printed_to_a_file_is_as_wide_as_it_needs(report, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "40")
    report.print()
    printed = capsys.readouterr().out
    heading = next(line for line in printed.splitlines() if "Backwards" in line)
    assert "First batch (s)" in heading
    assert "Other batches (s)" in heading


def test_points_outside_the_threat_set_are_pointed_out():
    stray = attack([1, 1, 0, 1], inside=np.asarray([1, 0, 0, 1], bool))
    report = Report(np.asarray([1, 1, 0, 1], bool), Timing(1.0, 0.0, 1), {"odd": stray}, {})
    assert "odd (2 points outside the set, not counted)" in report.to_markdown()
