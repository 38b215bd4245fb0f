"""Options of the command."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import tyro

from jaxrobust import checks
from jaxrobust.data import Dataset
from jaxrobust.duals.relaxed_network import METHODS

from ..common.attack_menu import Budget
from ..common.subject import Subject
from .instances import TIMEOUT, Instance, read_instances


@dataclasses.dataclass(frozen=True)
class Config:
    """Robustness of one trained model, from above and from below; or --onnx with --vnnlib, or
    --instances: the verification competition's questions, whose answers are sat, unsat, unknown and
    timeout."""

    onnx: Path | None = None
    """Network of a question; an .onnx or .onnx.gz file."""
    vnnlib: Path | None = None
    """Property of a question; a .vnnlib or .vnnlib.gz file."""
    instances: Path | None = None
    """A .csv of questions: network, property, seconds; paths are relative to it."""
    timeout: float | None = None
    """Seconds for each question (default: 60, or those of --instances)."""
    subject: tyro.conf.OmitArgPrefixes[Subject] = dataclasses.field(default_factory=Subject)
    threat: Literal["linf", "l2", "l1"] = "linf"
    eps: str = "0.1"
    """Radius in pixels of [0, 1]: a number or a fraction."""
    methods: tuple[Literal["interval", "wong_kolter", "crown"], ...] = METHODS
    """Bounds whose best is taken."""
    attacks: tuple[str, ...] = ("pgd-restarts",)
    """Attacks that bound robustness from above, as in `evaluate`."""
    budget: tyro.conf.OmitArgPrefixes[Budget] = dataclasses.field(default_factory=Budget)
    exact: float = 0.0
    """Seconds for each image that is neither broken nor certified, in which --solver looks for the
    answer; 0: none."""
    solver: Literal["branch-and-bound", "milp"] = "branch-and-bound"
    """Of --exact: branch and bound on bounds, or integer programs (linf and l1, ReLUs)."""
    seed: int = 0
    batch_size: int = 100
    rows: int | None = None
    """Rows of a bound at a time, to save memory."""
    out: Path | None = None
    """Folder of the results (default: a name under runs/verify that says what is verified). What is
    answered there is not asked again."""
    progress: bool = True

    def questions(self) -> tuple[Instance, ...]:
        """The competition's questions that the options name; none where they name a model.

        Raises:
          ValueError: options that contradict each other. FileNotFoundError: a missing file.
        """
        asked = [v is not None for v in (self.onnx, self.vnnlib, self.instances)]
        if any(asked) and self.subject != Subject():
            raise ValueError("--onnx and --instances take no model and no data beside them")
        if any(asked) and asked not in ([True, True, False], [False, False, True]):
            raise ValueError("give --onnx FILE with --vnnlib FILE, or --instances FILE.csv")
        if self.timeout is not None:
            if not any(asked):
                raise ValueError("--timeout is that of --onnx and --instances; see --exact")
            checks.positive("timeout", self.timeout)
        if self.instances is not None:
            return tuple(read_instances(self.instances, self.timeout))
        if self.onnx is None or self.vnnlib is None:
            return ()
        for file in (self.onnx, self.vnnlib):
            if not file.is_file():
                raise FileNotFoundError(f"there is no file {file}")
        return (Instance(self.onnx, self.vnnlib, self.timeout or TIMEOUT),)

    def answers(self) -> Path:
        """Folder of the answers to `questions`."""
        if self.out is not None:
            return self.out
        if self.instances is not None:
            file = self.instances.resolve()
            return Path("runs/verify") / f"{file.parent.name}-{file.stem}"
        (question,) = self.questions()
        return Path("runs/verify") / question.name


def default_folder(config: Config, dataset: Dataset) -> Path:
    """A folder whose name tells the results of different models, data or sets apart."""
    parts = [config.subject.name(dataset), config.threat, config.eps]
    return Path("runs/verify") / "-".join(parts).replace("/", "_")
