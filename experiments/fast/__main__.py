"""Fast adversarial training: sections 4.1 and 4.2 of Wong's thesis, ImageNet apart.

    python -m experiments.fast
    python -m experiments.fast --part start --dataset mnist --seeds 0 1 2 3 4 5 6 7 8 9
    python -m experiments.fast --part verified --time-limit 120
    python -m experiments.fast --part time --target 60
    python -m experiments.fast --part steps
    python -m experiments.fast --part collapse --dataset cifar10 --test-limit 1000
    python -m experiments.fast --dataset cifar10 --preset paper

Times are those of the machine it runs on, compiling apart. Every run resumes from its folder, and
integer programs from their last image.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import jax

from ..common.cli import command_line
from ..common.tables import told
from . import tables
from .config import Config, setting
from .run import Rows, Run


def main(config: Config) -> Rows:
    """Runs a part of the study; returns the rows of its table."""
    began = time.perf_counter()
    chosen, options = setting(config), config.options
    dataset = options.load(chosen.recipe)
    folder = options.folder("fast") / config.part
    run = Run(options, chosen, dataset, folder, config.methods)
    makers: Mapping[str, Callable[[], tuple[Rows, list[Path]]]] = {
        "table": lambda: tables.table(run),
        "start": lambda: tables.start(run),
        "verified": lambda: tables.verified(run, config.time_limit),
        "time": lambda: tables.race(run),
        "steps": lambda: tables.steps(run),
        "collapse": lambda: tables.collapse(run),
    }
    table, written = makers[config.part]()
    if jax.process_index() == 0:
        told(written, began)
    return table


if __name__ == "__main__":
    command_line(main, Config, __doc__)
