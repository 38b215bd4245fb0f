r"""Timings against other libraries, both sides in one run.

    python -m experiments.benchmark attacks
    python -m experiments.benchmark attacks --dataset mnist --pretrained WEIGHTS.npz \
        --attacks pgd apgd ddn cw autoattack --images 1000 --out runs/benchmark
    python -m experiments.benchmark sinkhorn --dataset mnist --pretrained WEIGHTS.npz
    python -m experiments.benchmark duals --dataset mnist --pretrained WEIGHTS.npz

`requirements-bench.txt` says how to install the peers; those that are missing are skipped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tyro

from ..common.cli import command_line
from . import attacks, duals, sinkhorn

COMMANDS: dict[str, tuple[type, Callable[[Any], Any]]] = {
    "attacks": (attacks.Config, attacks.main),
    "duals": (duals.Config, duals.main),
    "sinkhorn": (sinkhorn.Config, sinkhorn.main),
}
"""Each subcommand's options and what it runs."""


def main(options: Any) -> Any:
    """Runs the subcommand whose options these are; returns its table."""
    return next(run for config, run in COMMANDS.values() if type(options) is config)(options)


if __name__ == "__main__":
    defaults = {name: config() for name, (config, _) in COMMANDS.items()}
    command = tyro.extras.subcommand_type_from_defaults(defaults)
    # Its tables say how long compiling took.
    command_line(main, command, __doc__, kept=False)
