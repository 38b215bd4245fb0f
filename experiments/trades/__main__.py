"""TRADES' experiments: Tables 3 to 10.

    python -m experiments.trades
    python -m experiments.trades --part table black-box --dataset mnist --seeds 0
    python -m experiments.trades --part sensitivity --weights 0.1 1 10
    python -m experiments.trades --part table --attacks fgsm pgd lbfgs --more-steps 1000
    python -m experiments.trades --dataset cifar10 --preset paper

Parts: table (white-box, Tables 5 and 8), sensitivity (1 / lambda, Table 4), black-box (Tables 6,
7, 9, 10, on the table's models), theorem (a binary task, Table 3), and where asked for plane
(boundaries in the plane, Figure 1). Every attack is judged at the recipe's linf radius: DeepFool
and L-BFGS seek the nearest misclassified point, L-BFGS and deepfool-l2 by its l2 norm, and succeed
only where that lies inside the ball, so that they leave more accuracy standing than attacks that
search the ball. The paper's C&W is of that kind too; cw here is PGD on C&W's margin inside the
ball. Every run resumes from its folder.
"""

from __future__ import annotations

import time
from typing import Any

import jax

from jaxrobust import figures

from ..common.cli import command_line
from ..common.tables import publish, told
from .config import Config
from .tables import jobs


def main(config: Config) -> dict[str, list[dict[str, Any]]]:
    """Runs the parts; returns the rows of each table by its name."""
    began = time.perf_counter()
    options = config.options
    folder = options.folder("trades")
    tables = {}
    for job in jobs(config):
        for name, sheet in job(folder).items():
            tables[name] = sheet.rows
            if jax.process_index() != 0:
                continue
            about = options.about("trades", sheet.source)
            publish(folder / name, f"{name}; {sheet.title}", sheet.rows, about=about)
            written = [folder / f"{name}.md"]
            if sheet.figure is not None:
                written.append(figures.save_figure(sheet.figure, folder / f"{name}.png"))
            told(written, began)
    return tables


if __name__ == "__main__":
    command_line(main, Config, __doc__)
