"""One small run of a study in a process of its own, for tests that kill it.

python study_worker.py wasserstein OUT
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from experiments.common.cli import command_line
from experiments.common.recipes import Recipe
from experiments.provable import __main__ as provable
from experiments.provable import recipes as certification
from experiments.wasserstein import __main__ as wasserstein
from experiments.wasserstein import recipes as transport
from jaxrobust import figures
from jaxrobust.threats import Linf

TINY = Recipe(
    model="", epsilon=0.0, step_size=0.0, steps=0, epochs=4, batch_size=32, optimizer="adam",
    learning_rate=4e-3, schedule="constant", ramp=0.5,
)  # fmt: skip


def cubes(self: transport.Plans, radius: float) -> Linf:
    """Cubes in the place of Wasserstein balls, whose attack takes a minute to compile."""
    return Linf(radius, upper=1.0 + 0 * self.lam)


def run_wasserstein(out: Path) -> None:
    """On a multilayer perceptron."""
    transport.Plans.threat = cubes
    preset = transport.PRESETS["quick"]
    mlp = dataclasses.replace(preset.recipe, model="mlp")
    transport.PRESETS["quick"] = dataclasses.replace(preset, recipe=mlp)
    wasserstein.main(
        wasserstein.Config(
            out=out, progress=False, limit=16, train_limit=96, epochs=3, exact=1, columns=3,
            steps=30, batch_size=4,
        )
    )  # fmt: skip


def run_provable(out: Path) -> None:
    """With one hidden layer, few images and short searches."""
    certification.NETWORKS["wide1"] = certification.Network("mlp", {"widths": (12,)})
    certification.PRESETS["quick"] = dataclasses.replace(
        certification.PRESETS["quick"], recipe=TINY, methods=("interval",), epsilons=(0.02,),
        limit=16, radii=4, exact=1, attack_steps=3, parts=("table", "radii"),
    )  # fmt: skip
    provable.main(
        provable.Config(
            out=out, progress=False, train_limit=96, batch_size=4, attacks=("pgd",),
            certificates=("interval",), seeds=(0, 1),
        )
    )  # fmt: skip


if __name__ == "__main__":
    # Figures take seconds and are no result.
    figures.save_figure = lambda figure, path: path
    run = {"wasserstein": run_wasserstein, "provable": run_provable}[sys.argv[1]]
    sys.argv[1:] = ["--out", sys.argv[2]]

    @dataclasses.dataclass(frozen=True)
    class Options:
        """Where to."""

        out: Path

    command_line(lambda options: run(options.out), Options, None)
