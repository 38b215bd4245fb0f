"""The competition's instances: one, or all of a list, with answers that are kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxrobust.files import write_csv, write_text_atomic

from ..common.cli import MISTAKES
from ..common.tables import publish
from .decide import WORDS, Answer, decide
from .instances import Instance

RESULTS = ("unsat", "sat", "unknown", "timeout", "error")
"""In the order of the table."""


def run_one(instance: Instance, folder: Path) -> Answer:
    """Decides an instance, prints the competition's word, and writes the counterexample."""
    answer = decide(instance)
    print(answer.result, flush=True)
    print(_told(answer))
    if answer.counterexample:
        print(f"wrote {write_text_atomic(folder / 'counterexample.txt', answer.counterexample)}")
    return answer


def run_all(instances: Sequence[Instance], folder: Path) -> list[Answer]:
    """Decides instances in order and prints a table by network.

    Answers are saved as they come and read from there; one that ended in an error is tried again.
    """
    answers = []
    for place, instance in enumerate(instances, 1):
        answer = _kept(instance, folder)
        answers.append(answer)
        about = f"{instance.onnx.name} {instance.vnnlib.name}"
        print(f"{place}/{len(instances)} {about}: {answer.result}, {_told(answer)}", flush=True)
    rows = [_row(i, a) for i, a in zip(instances, answers, strict=True)]
    write_csv(folder / "answers.csv", rows)
    publish(folder / "table", f"{len(instances)} instances", _counted(instances, answers))
    return answers


def _kept(instance: Instance, folder: Path) -> Answer:
    """The answer that is saved, or a new one, saved."""
    file = folder / "answers" / f"{instance.name}.json"
    if file.is_file():
        return Answer(**json.loads(file.read_text(encoding="utf-8")))
    try:
        answer = decide(instance)
    # one that does not fit into memory leaves the others alone
    except (*MISTAKES, MemoryError, jax.errors.JaxRuntimeError) as error:
        return Answer("error", 0.0, 0, str(error))
    if answer.counterexample:
        file_of_point = folder / "counterexamples" / f"{instance.name}.txt"
        write_text_atomic(file_of_point, answer.counterexample)
    write_text_atomic(file, json.dumps(answer._asdict()) + "\n")
    return answer


def _told(answer: Answer) -> str:
    parts = [f"{answer.seconds:.1f} s", f"{answer.subdomains} subdomains", answer.note]
    ours = WORDS.get(answer.result)
    return ", ".join([ours] * (ours not in (None, answer.result)) + [p for p in parts if p])


def _row(instance: Instance, answer: Answer) -> dict[str, Any]:
    about = {"onnx": instance.onnx.name, "vnnlib": instance.vnnlib.name}
    held = {n: v for n, v in answer._asdict().items() if n != "counterexample"}
    return about | {"timeout": instance.timeout} | held


def _counted(instances: Sequence[Instance], answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """How many answers of each kind there are, and the times, by network and for all."""
    groups: dict[str, list[Answer]] = {}
    for instance, answer in zip(instances, answers, strict=True):
        groups.setdefault(instance.onnx.name, []).append(answer)
    if len(groups) > 1:
        groups["all"] = list(answers)
    return [{"network": name, **_summary(own)} for name, own in groups.items()]


def _summary(answers: Sequence[Answer]) -> dict[str, Any]:
    decided = [a.seconds for a in answers if a.result in ("unsat", "sat")]
    return {
        "instances": len(answers),
        **{result: sum(a.result == result for a in answers) for result in RESULTS},
        "decided %": 100 * len(decided) / len(answers),
        "median s of those": float(np.median(decided)) if decided else None,
        "all s": float(sum(a.seconds for a in answers)),
    }
