"""Robustness to several norms at once: sections 5.3 and 5.4 of Wong's thesis.

    python -m experiments.union
    python -m experiments.union --methods worst msd --attacks pgd pointwise boundary
    python -m experiments.union --dataset mnist --limit 10000 --seeds 0
    python -m experiments.union --dataset mnist --preset paper

The table holds the worst case over the attacks of each ball and of all balls, image by image
(Tables 5.2 and 5.3); a second file has every attack, and a figure for each norm the robustness
curves (Figures 5.9 to 5.14) of the first seed. Every run resumes from its folder, and its
evaluation from the last batch.
"""

from __future__ import annotations

import time
from typing import Any

import jax

from jaxrobust import figures

from ..common.cli import command_line
from ..common.rows import Judge
from ..common.runner import run_rows
from ..common.tables import publish, told
from .config import Config, load, setting
from .methods import rows_of
from .recipes import NORMS
from .suite import suite
from .tables import Evaluator, details, summary, title, trained_by


def main(config: Config) -> list[dict[str, Any]]:
    """Runs the study; returns the rows of its table."""
    began = time.perf_counter()
    chosen, options = setting(config), config.options
    # Before anything is trained.
    methods, _ = rows_of(config.methods, chosen), suite(chosen.attacks, chosen)
    dataset = load(config, chosen)
    folder = options.folder("union")
    outcomes = run_rows(
        methods,
        chosen.recipe,
        dataset,
        judge=Judge({}),
        **options.runs(folder, setting=trained_by(chosen)),
    )
    evaluator = Evaluator(chosen, dataset, folder, options.progress)
    judged = [evaluator.judge(outcome) for outcome in outcomes]
    first = [outcome for outcome in outcomes if outcome.seed == options.seeds[0]]
    curves = {
        norm: {outcome.method: evaluator.curve(outcome, norm) for outcome in first}
        for norm in (NORMS if config.curves else ())
    }
    table = summary(judged, options.name)
    if jax.process_index() != 0:
        return table

    about = options.about("union", "Wong's thesis, Tables 5.2 and 5.3")
    heading = title(chosen, dataset, options.seeds)
    publish(folder / "table", heading, table, about=about)
    publish(folder / "attacks", f"every attack; {heading}", details(judged), about=about)
    written = [folder / "table.md", folder / "attacks.md"]
    for norm, lines in curves.items():
        drawn = figures.robustness_curve(lines, unit=f"{norm} radius")
        written.append(figures.save_figure(drawn, folder / f"figure9_{norm}.png"))
    told(written, began)
    return table


if __name__ == "__main__":
    command_line(main, Config, __doc__)
