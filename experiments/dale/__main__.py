"""DALE's experiments: Tables 1 and 2, Figures 1 and 2.

    python -m experiments.dale
    python -m experiments.dale --dataset mnist --methods pgd dale --rho 0.2 --seeds 0
    python -m experiments.dale --dataset cifar10 --preset paper

Every run resumes from its folder under `--out`: run the same command again after an interruption.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Literal

import jax
import numpy as np
import tyro

from experiments.common.defense_menu import CONSTRAINED, make_methods, sampling, stepped
from experiments.common.options import Options, distinct
from experiments.common.recipes import DALE, Recipe
from experiments.common.runner import (
    Method,
    Outcome,
    command_line,
    judge,
    judged_network,
    run_rows,
    setup,
)
from experiments.common.tables import publish, summarize, told
from jaxrobust import attacks, checks, figures
from jaxrobust.data import Dataset, Split
from jaxrobust.evaluation import evaluate
from jaxrobust.lagrangian import dual_ascent
from jaxrobust.types import Attack

PCA_IMAGES = 10_000
"""Training images whose principal components span Figure 1."""

METHODS = ("erm", "fgsm", "pgd", "alp", "clp", "trades", "mart", *CONSTRAINED)
COLUMNS = "clean / FGSM / PGD"

# Robey et al. 2021, Tables 1 and 2.
PUBLISHED: Mapping[str, Mapping[str, Sequence[float]]] = {
    "mnist": {
        "erm": (99.3, 14.3, 1.46),
        "fgsm": (98.3, 98.1, 13.0),
        "pgd": (98.1, 95.5, 93.1),
        "clp": (98.0, 95.4, 92.2),
        "alp": (98.1, 95.5, 92.5),
        "mart": (98.9, 96.1, 93.5),
        "trades": (98.9, 96.5, 94.0),
        "dale rho=0.5": (99.3, 96.6, 94.0),
        "dale rho=0.8": (99.0, 96.9, 94.3),
        "dale rho=1": (99.1, 97.7, 94.5),
    },
    "cifar10": {
        "erm": (94.0, 0.01, 0.01),
        "fgsm": (72.6, 49.7, 40.7),
        "pgd": (83.8, 53.7, 48.1),
        "clp": (79.8, 53.9, 48.4),
        "alp": (75.9, 55.0, 48.8),
        "mart": (78.9, 55.6, 49.8),
        "trades": (80.7, 55.2, 49.6),
        "dale rho=0.5": (86.0, 54.4, 48.4),
        "dale rho=0.8": (85.0, 55.4, 50.1),
        "dale rho=1": (82.1, 55.2, 51.7),
        "dale nu=0.1": (86.4, 55.3, 49.5),
        "dale nu=0.5": (86.5, 54.3, 46.8),
        "dale nu=1": (84.5, 52.7, 45.8),
    },
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Trains DALE and its baselines and prints their clean and robust test accuracies."""

    options: tyro.conf.OmitArgPrefixes[Options] = dataclasses.field(default_factory=Options)
    methods: tuple[str, ...] = ("erm", "fgsm", "pgd", "trades", "dale")
    """Of erm, fgsm, pgd, alp, clp, trades, mart, dale, kl_dale, reverse_dale."""
    rho: tuple[float, ...] | None = None
    """Levels of the constrained loss, a row each (default: the preset's)."""
    nu: tuple[float, ...] = ()
    """Fixed multipliers for DALE without the dual update, a row each (Table 2)."""
    select: Literal["last", "best"] = "last"
    """Evaluate the last epoch, or the best by PGD accuracy on held-out training images."""
    noise: Literal["laplace", "gaussian"] = "laplace"
    """DALE's noise: laplace inside the sign (paper), or gaussian outside it (released code)."""
    dual_update: Literal["batch", "epoch"] = "batch"
    """When the multiplier moves: after every batch (released code) or every epoch (paper)."""
    attack_mode: Literal["eval", "train"] = "eval"
    """Batch statistics inside training attacks: running, or those of the batch."""
    temperature: float | None = None
    """Of DALE's noise, sqrt(2 * step size * temperature)."""
    relative_noise: bool | None = None
    """DALE's noise in units of each example's mean |gradient entry|."""
    dual: Literal["pi", "ascent"] | None = None
    """What moves the multiplier: a controller whose strength grows over the run, or the paper's
    dual ascent (default: the preset's)."""
    dual_integral: float | None = None
    """Of pi: what a violation of 1 throughout the run would add at full strength."""
    dual_proportional: float | None = None
    """Of pi: what a fall of the violation by 1 takes back."""
    dual_window: float | None = None
    """Of pi: share of the run that it averages the violation over, for its proportional part."""
    dual_growth: float | None = None
    """Of pi: the power of the share of training by which its strength grows; 0: constant."""
    dual_step: float | None = None
    """Of ascent, for every move."""
    dual_initial: float | None = None


def settings_of(config: Config) -> Recipe:
    """The preset's recipe with the options that are given."""
    names = ("rho", "noise", "dual_update", "attack_mode", "temperature", "relative_noise")
    names += ("dual", "dual_integral", "dual_proportional", "dual_window", "dual_growth")
    names += ("dual_step", "dual_initial")
    return config.options.recipe(DALE, **{name: getattr(config, name) for name in names})


def methods(config: Config, settings: Recipe, dataset: Dataset) -> list[Method]:
    """The rows of the table."""
    for name in config.methods:
        checks.choice("method", name, METHODS)
    rows = make_methods(config.methods, settings, dataset)
    for nu in config.nu:
        # A dual step of 0 keeps the multiplier; the constraint level is then only logged against.
        held = dual_ascent(0.0, initial=nu)
        rows.append(Method(f"dale nu={nu:g}", CONSTRAINED["dale"](settings, 0.0), held))
    return rows


def sampling_attacks(settings: Recipe) -> dict[str, Attack]:
    """The perturbations that Figure 1 compares, by the row whose model they attack."""
    return {
        "fgsm": attacks.fgsm(settings.threat),
        "pgd": attacks.pgd(settings.threat, **stepped(settings), keep="last"),
        "dale": attacks.langevin(settings.threat, **sampling(settings)),
    }


def figure_1(
    settings: Recipe, dataset: Dataset, outcomes: Sequence[Outcome], *, count: int = 500
) -> figures.Figure | None:
    """Training perturbations of FGSM, PGD and DALE, each on its own model; None without runs."""
    model = judged_network(settings, dataset)
    x = dataset.train.x[:count].astype(np.float32) / 255
    shifts = {}
    for name, attack in sampling_attacks(settings).items():
        own = next((o for o in outcomes if o.method.split()[0] == name), None)
        if own is not None:
            report = evaluate(
                jax.random.key(own.seed),
                model,
                own.variables,
                Split(x, dataset.train.y[:count]),
                {name: attack},
                batch_size=min(count, len(x)),
                # Drawn by the first process alone: no other may be waited for.
                devices=jax.local_devices(),
                keep_examples=True,
                progress=False,
            )
            shifts[own.method] = report.attacks[name].examples - x
    reference = dataset.train.x[:PCA_IMAGES].astype(np.float32) / 255
    return figures.perturbation_pca(reference, shifts) if shifts else None


FIGURE_2 = (
    "epoch",
    "val_clean_accuracy",
    "val_pgd_accuracy",
    "train_clean_loss",
    "train_adversarial_loss",
    "multiplier",
)


def figure_2(outcome: Outcome, rho: float) -> figures.Figure:
    """Held-out accuracies, training losses, multiplier and slack of a run over its epochs."""
    history = [
        {n: row[n] for n in FIGURE_2 if n in row} | {"slack": -row["train_violation"]}
        for row in outcome.history
    ]
    return figures.training_curves(history, rho=rho)


def main(config: Config) -> list[dict]:
    """Runs the study; returns the rows of its table."""
    began = time.perf_counter()
    options, settings = config.options, settings_of(config)
    for name, values in (("methods", config.methods), ("rho", settings.rho), ("nu", config.nu)):
        distinct(name, values)
    if not (config.methods or config.nu):
        raise ValueError("nothing to run: give at least one of --methods or --nu")
    dataset = options.load(settings)
    folder = options.folder("dale")
    outcomes = run_rows(
        methods(config, settings, dataset),
        settings,
        dataset,
        judge=judge(settings, selects=(config.select,)),
        **options.runs(folder),
    )
    table = summarize(outcomes, PUBLISHED.get(options.dataset), columns=COLUMNS)
    if jax.process_index() != 0:
        return table

    title = f"{setup(settings, dataset, options.seeds)}; {config.select} epoch"
    publish(folder / "table", title, table, about=options.about("dale", "DALE, Tables 1 and 2"))
    drawn = [folder / "table.md"]
    scatter = figure_1(settings, dataset, outcomes)
    if scatter is not None:
        drawn.append(figures.save_figure(scatter, folder / "figure1_perturbations.png"))
    rho = {row.name: row.rho for row in methods(config, settings, dataset) if row.rho is not None}
    for name, level in rho.items():
        first = next(o for o in outcomes if o.method == name)
        path = folder / f"figure2_{name.replace(' ', '_')}.png"
        drawn.append(figures.save_figure(figure_2(first, level), path))
    told(drawn, began)
    return table


if __name__ == "__main__":
    command_line(main, Config, __doc__)
