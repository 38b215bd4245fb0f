"""The verifying command on the competition's files: words, counterexamples, lists that resume."""

import csv
import dataclasses
import gzip
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tyro

pytest.importorskip("onnx")

from models.onnx_cases import node, reference, save

from experiments.common.subject import Subject
from experiments.verify import competition, counterexample, decide
from experiments.verify.__main__ import main
from experiments.verify.competition import run_all
from experiments.verify.config import Config
from experiments.verify.counterexample import Replay
from experiments.verify.decide import Answer
from experiments.verify.instances import Instance, read_instances
from jaxrobust import duals

pytestmark = pytest.mark.usefixtures("default_promotion", "one_device")

DRAW = np.random.default_rng(3)
ARRAYS = {
    "w": DRAW.normal(size=(2, 5)).astype(np.float32),
    "b": DRAW.normal(size=5).astype(np.float32),
    "v": DRAW.normal(size=(5, 2)).astype(np.float32),
}


def network(folder: Path, kind: str = "Relu") -> Path:
    nodes = [node("Gemm", "x w b", "h"), node(kind, "h", "r"), node("MatMul", "r v", "y")]
    return save(folder / f"{kind}.onnx", nodes, ARRAYS, (1, 2))


def outputs(points: np.ndarray) -> np.ndarray:
    """The network in float64, written anew."""
    w, b, v = (ARRAYS[name].astype(np.float64) for name in "wbv")
    return np.maximum(points @ w + b, 0) @ v


def gap() -> float:
    """The least Y_1 - Y_0 on the unit square, of a fine grid: kinks make it no finer."""
    side = np.linspace(0, 1, 401)
    found = outputs(np.stack(np.meshgrid(side, side), -1).reshape(-1, 2))
    return float((found[:, 1] - found[:, 0]).min())


def asked(path: Path, violations: str) -> Path:
    names = ["X_0", "X_1", "Y_0", "Y_1"]
    lines = [f"(declare-const {name} Real)" for name in names]
    lines += [f"(assert (<= {name} 1)) (assert (>= {name} 0.0))" for name in names[:2]]
    path.write_text("\n".join([*lines, f"(assert {violations})"]))
    return path


def below(room: float) -> str:
    """Y_1 - Y_0 is by that much less than its minimum, or more where negative."""
    return f"(<= (- Y_1 Y_0) {gap() - room:.6f})"


def test_what_cannot_be_violated_is_unsat(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    files = network(tmp_path), asked(tmp_path / "a.vnnlib", below(0.05))
    (answer,) = main(Config(onnx=files[0], vnnlib=files[1], out=tmp_path / "out"))
    assert answer.result == "unsat"
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "unsat"
    assert told[1].startswith("verified, ")
    assert not (tmp_path / "out").exists()


def test_a_counterexample_is_written_as_the_competition_wants_it(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    files = network(tmp_path), asked(tmp_path / "a.vnnlib", f"(or {below(-0.05)} (<= Y_0 -99))")
    (answer,) = main(Config(onnx=files[0], vnnlib=files[1], out=tmp_path / "out", timeout=30.0))
    assert answer.result == "sat"
    assert capsys.readouterr().out.startswith("sat\nfalsified, ")
    text = (tmp_path / "out" / "counterexample.txt").read_text()
    assert re.fullmatch(r"sat\n\((\([XY]_\d [-\d.e]+\)\n?){4}\)\n", text)
    found = {name: float(v) for name, v in re.findall(r"\(([XY]_\d) ([^\s)]+)\)", text)}
    assert list(found) == ["X_0", "X_1", "Y_0", "Y_1"]
    x, y = (np.array([found[f"{kind}_{i}"] for i in range(2)]) for kind in "XY")
    assert ((x >= 0) & (x <= 1)).all()
    np.testing.assert_allclose(y, reference(files[0], np.float32(x)[None])[0], rtol=1e-6)
    np.testing.assert_allclose(y, outputs(x), rtol=1e-4, atol=1e-5)
    assert y[1] - y[0] <= gap() + 0.05
    assert "replayed by " in answer.note


def verdict(status: str, seconds: float = 0.0) -> duals.Verdict:
    return duals.Verdict(status, -1.0, 1.0, np.zeros(2, np.float32), 3, 1, seconds)


TWO = "(or (and (<= X_0 0.5) (<= Y_0 -90)) (and (>= X_0 0.6) (<= Y_0 -91)))"
"""Two boxes."""


@pytest.mark.parametrize(
    ("statuses", "wanted"),
    [
        (("verified", "verified"), "unsat"),
        (("verified", "unknown"), "unknown"),
        (("late", "verified", "verified"), "unsat"),
        (("late", "unknown", "verified"), "unknown"),
        (("late", "verified", "late"), "timeout"),
    ],
)
def test_boxes_share_the_time(
    statuses: tuple[str, ...], wanted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, given, script = [0.0], [], iter(statuses)

    def verify(f: Any, x: Any, goal: Any, threat: Any, *, time_limit: float) -> duals.Verdict:
        given.append(time_limit)
        status = next(script)
        spent = time_limit if status == "late" else 1.0
        clock[0] += spent
        return verdict("unknown" if status == "late" else status, spent)

    monkeypatch.setattr(decide.duals, "verify", verify)
    monkeypatch.setattr(decide.time, "monotonic", lambda: clock[0])
    files = network(tmp_path), asked(tmp_path / "a.vnnlib", TWO)
    answer = decide.decide(Instance(*files, 20.0))
    assert answer.result == wanted
    assert answer.subdomains == 3 * len(statuses)
    assert next(script, None) is None
    assert given[0] == 10.0
    assert given[1] == 20.0 - (10.0 if statuses[0] == "late" else 1.0)


def test_a_point_that_another_implementation_does_not_confirm_decides_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = network(tmp_path), asked(tmp_path / "a.vnnlib", below(0.0))
    monkeypatch.setattr(decide.duals, "verify", lambda *_, **__: verdict("falsified"))
    monkeypatch.setattr(decide, "replayed", lambda *_: Replay("another", np.array([0.0, 9.0])))
    answer = decide.decide(Instance(*files, 20.0))
    assert (answer.result, answer.counterexample) == ("unknown", "")
    assert "none by another" in answer.note


def test_without_onnxruntime_points_are_replayed_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    found = counterexample.replayed(network(tmp_path), lambda x: x + 1, np.zeros(2))
    assert found.by == "this library; onnxruntime is not installed"
    assert found.outputs.tolist() == [1, 1]


def listed(folder: Path) -> Path:
    """Three questions, the last about a network that cannot be read."""
    network(folder)
    good = folder / "Relu.onnx"
    packed = folder / "packed.onnx.gz"
    packed.write_bytes(gzip.compress(good.read_bytes()))
    network(folder, "Sign")
    asked(folder / "a.vnnlib", below(0.05))
    asked(folder / "b.vnnlib", below(-0.05))
    file = folder / "instances.csv"
    file.write_text("Relu.onnx, a.vnnlib, 30\n\n./packed.onnx,./b.vnnlib,20\nSign.onnx,a.vnnlib\n")
    return file


def scripted(monkeypatch: pytest.MonkeyPatch, answers: dict[str, Any]) -> list[str]:
    """Replaces the verifier by given answers, or errors, by network; returns what is asked."""
    seen: list[str] = []

    def answer(instance: Instance) -> Answer:
        seen.append(instance.onnx.name)
        found = answers[instance.onnx.name]
        if isinstance(found, BaseException):
            raise found
        return found

    monkeypatch.setattr(competition, "decide", answer)
    return seen


def test_a_list_resumes_where_it_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    config = Config(instances=listed(tmp_path), out=tmp_path / "out")
    answers: dict[str, Any] = {
        "Relu.onnx": Answer("unsat", 2.0, 7),
        "packed.onnx.gz": KeyboardInterrupt(),
        "Sign.onnx": ValueError("the operator 'Sign'"),
    }
    seen = scripted(monkeypatch, answers)
    with pytest.raises(KeyboardInterrupt):
        main(config)
    answers["packed.onnx.gz"] = Answer("sat", 4.0, 1, "replayed by x", "sat\n((X_0 1.0))\n")
    found = main(config)
    assert seen == ["Relu.onnx", "packed.onnx.gz", "packed.onnx.gz", "Sign.onnx"]
    assert [a.result for a in found] == ["unsat", "sat", "error"]
    told = capsys.readouterr().out
    assert "2/3 packed.onnx.gz b.vnnlib: sat, falsified, 4.0 s, 1 subdomains" in told
    assert "3/3 Sign.onnx a.vnnlib: error, 0.0 s, 0 subdomains, the operator 'Sign'" in told
    # What ended in an error is tried again, and nothing else.
    seen.clear()
    assert main(config) == found
    assert seen == ["Sign.onnx"]
    # Other files of the same names are other questions.
    asked(tmp_path / "a.vnnlib", below(0.06))
    seen.clear()
    main(config)
    assert seen == ["Relu.onnx", "Sign.onnx"]
    (text,) = (tmp_path / "out" / "counterexamples").glob("packed-b-*.txt")
    assert text.read_text() == "sat\n((X_0 1.0))\n"
    rows = json.loads((tmp_path / "out" / "table.json").read_text())["rows"]
    assert [row["network"] for row in rows] == ["Relu.onnx", "packed.onnx.gz", "Sign.onnx", "all"]
    assert {k: rows[-1][k] for k in ("unsat", "sat", "error", "all s")} == {
        "unsat": 1, "sat": 1, "error": 1, "all s": 6.0
    }  # fmt: skip
    with (tmp_path / "out" / "answers.csv").open() as file:
        assert [r["result"] for r in csv.DictReader(file)] == ["unsat", "sat", "error"]


def test_rows_of_a_list(tmp_path: Path) -> None:
    file = listed(tmp_path)
    assert [i.timeout for i in read_instances(file, None)] == [30.0, 20.0, 60.0]
    assert [i.timeout for i in read_instances(file, 5.0)] == [5.0] * 3
    assert len({i.name for i in (*read_instances(file, None), *read_instances(file, 5.0))}) == 6


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("Relu.onnx,a.vnnlib,soon\n", ValueError, "line 1: 'soon' are no seconds"),
        ("Relu.onnx,a.vnnlib,0\n", ValueError, "line 1: seconds must be"),
        ("\nRelu.onnx\n", ValueError, "line 2: a row is network,property,seconds, got 1"),
        ("Relu.onnx,z.vnnlib\n", FileNotFoundError, r"line 1: there is no file .*z\.vnnlib"),
        ("\n", ValueError, "names no instance"),
    ],
)
def test_mistakes_in_a_list(
    tmp_path: Path, text: str, error: type[Exception], message: str
) -> None:
    file = listed(tmp_path)
    file.write_text(text)
    with pytest.raises(error, match=message):
        read_instances(file, None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"onnx": Path("a.onnx")}, "give --onnx FILE with --vnnlib FILE"),
        ({"instances": Path("a.csv"), "vnnlib": Path("a")}, "give --onnx FILE with --vnnlib FILE"),
        ({"instances": Path("a.csv"), "subject": Subject(limit=3)}, "take no model and no data"),
        ({"timeout": 3.0}, "--timeout is that of --onnx and --instances"),
        ({"instances": Path("a.csv"), "timeout": 0.0}, "timeout must be finite and above 0"),
    ],
)
def test_options_that_contradict_each_other(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        main(Config(**changes))
    with pytest.raises(FileNotFoundError, match=r"no file a\.onnx"):
        main(Config(onnx=Path("a.onnx"), vnnlib=Path("b.vnnlib")))


def test_files_that_do_not_fit_each_other(tmp_path: Path) -> None:
    files = network(tmp_path), asked(tmp_path / "a.vnnlib", "(<= Y_0 0)")
    files[1].write_text(files[1].read_text() + "(declare-const Y_2 Real)")
    with pytest.raises(ValueError, match=r"a\.vnnlib is about 3 outputs, but .*Relu\.onnx has 2"):
        main(Config(onnx=files[0], vnnlib=files[1]))


def test_the_command_line_has_every_option_once() -> None:
    parsed = tyro.cli(Config, args=["--instances", "a.csv", "--timeout", "3", "--rows", "5"])
    assert dataclasses.replace(parsed, rows=None) == Config(instances=Path("a.csv"), timeout=3.0)


def test_all_of_a_list_is_decided(tmp_path: Path) -> None:
    found = run_all(read_instances(listed(tmp_path), 60.0), tmp_path / "out")
    assert [a.result for a in found] == ["unsat", "sat", "error"]
    assert "the operator 'Sign'" in found[2].note
