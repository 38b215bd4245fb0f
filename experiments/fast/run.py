"""Training, judging and publishing the rows of a part."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxrobust import attacks, figures
from jaxrobust.data import Dataset
from jaxrobust.threats import Linf
from jaxrobust.types import Attack

from ..common.clock import clock
from ..common.options import Options
from ..common.recipes import Recipe
from ..common.rows import Method, Outcome
from ..common.runner import judge, run_rows, setup
from ..common.tables import publish
from .recipes import Setting

Rows = list[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Run:
    """A part of the study."""

    options: Options
    chosen: Setting
    dataset: Dataset
    folder: Path
    """Folder of the part."""
    names: tuple[str, ...] | None = None
    """Names of the rows to make; None makes all."""

    def changed(self, **changes: Any) -> Run:
        """The run with another recipe."""
        recipe = dataclasses.replace(self.settings, **changes)
        return dataclasses.replace(self, chosen=dataclasses.replace(self.chosen, recipe=recipe))

    def wants(self, name: str) -> bool:
        """Whether a row of that name is made."""
        return self.names is None or name in self.names

    @property
    def settings(self) -> Recipe:
        """The recipe of FGSM."""
        return self.chosen.recipe

    @property
    def robust(self) -> str:
        """The column of the PGD that judges: its steps and restarts, as the thesis writes them."""
        return f"PGD-{self.settings.eval_steps}-{self.chosen.restarts}"

    def pgd(self, threat: Linf) -> Attack:
        """The PGD that judges, its restarts one after the other to save memory."""
        size, steps = self.settings.eval_step_size, self.settings.eval_steps
        attack = attacks.pgd(threat, step_size=size, steps=steps)
        return attacks.restarts(attack, self.chosen.restarts, chunk=1)

    def columns(self) -> dict[str, Attack]:
        """FGSM, and PGD with restarts."""
        threat = self.settings.threat
        return {"FGSM": attacks.fgsm(threat), self.robust: self.pgd(threat)}

    def train(
        self,
        methods: Sequence[Method],
        *,
        columns: Mapping[str, Attack] | None = None,
        selects: tuple[str, ...] = ("last",),
    ) -> list[Outcome]:
        """Trains and judges the rows; one that is stopped early at its best epoch."""
        columns = self.columns() if columns is None else columns
        outcomes = []
        for method in methods:
            stops = method.stop is not None
            epochs = ("best",) if stops else selects
            outcomes += run_rows(
                [method],
                self.settings,
                self.dataset,
                judge=judge(self.settings, columns=columns, selects=epochs),
                # A run that was stopped is another one than a run that was not.
                **self.options.runs(self.folder, drop=self.chosen.drop if stops else None),
            )
        return outcomes

    def title(self, text: str) -> str:
        """A table's."""
        return f"{setup(self.settings, self.dataset, self.options.seeds)}; {text}"

    def publish(self, name: str, title: str, table: Rows, source: str) -> Path:
        """Writes a table; its file, to be told."""
        stem = self.folder / name
        about = self.options.about("fast", f"Wong's thesis, {source}")
        publish(stem, title, table, about=about)
        return stem.with_suffix(".md")

    def draw(self, name: str, figure: figures.Figure) -> Path:
        """Writes a figure; its file, to be told."""
        return figures.save_figure(figure, self.folder / f"{name}.png")


def timed(outcomes: Sequence[Outcome], batch_size: int) -> dict[str, float]:
    """Epochs, and seconds of training with compiling apart: means over the runs of a row."""
    clocks = [clock(o.history, batch_size) for o in outcomes]
    return {
        "epochs": float(np.mean([len(o.history) for o in outcomes])),
        "training s": float(np.mean([c.steady for c in clocks])),
        "compiling s": float(np.mean([c.other for c in clocks])),
    }
