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
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from rich.console import Console

from experiments.recipes import Recipe, recipe
from experiments.study import (
    Method,
    Outcome,
    Study,
    command_line,
    publish,
    run,
    study,
    summarize,
    table_attacks,
)
from jaxrobust import attacks, checks, data, defenses, figures, training
from jaxrobust.data import Dataset, Split
from jaxrobust.evaluation import evaluate
from jaxrobust.lagrangian import dual_ascent
from jaxrobust.threats import Linf
from jaxrobust.types import Attack

PCA_IMAGES = 10_000
"""Training images whose principal components span Figure 1."""

CONSTRAINED = ("dale", "kl_dale", "reverse_dale")
METHODS = ("erm", "fgsm", "pgd", "trades", *CONSTRAINED)

# Robey et al. 2021, Table 1: clean / FGSM / PGD.
PUBLISHED: Mapping[str, Mapping[str, Sequence[float]]] = {
    "mnist": {
        "erm": (99.3, 14.3, 1.46),
        "fgsm": (98.3, 98.1, 13.0),
        "pgd": (98.1, 95.5, 93.1),
        "trades": (98.9, 96.5, 94.0),
        "dale rho=0.5": (99.3, 96.6, 94.0),
        "dale rho=0.8": (99.0, 96.9, 94.3),
        "dale rho=1": (99.1, 97.7, 94.5),
    },
    "cifar10": {
        "erm": (94.0, 0.01, 0.01),
        "fgsm": (72.6, 49.7, 40.7),
        "pgd": (83.8, 53.7, 48.1),
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

    dataset: str = "digits"
    """digits, or a TFDS image-classification set: mnist, fashion_mnist, cifar10, cifar100, ..."""
    preset: Literal["quick", "paper"] = "quick"
    """quick: small budgets. paper: the paper's settings."""
    methods: tuple[str, ...] = ("erm", "fgsm", "pgd", "trades", "dale")
    """Of erm, fgsm, pgd, trades, dale, kl_dale, reverse_dale."""
    rho: tuple[float, ...] | None = None
    """Levels of the constrained loss, a row each (default: the preset's)."""
    nu: tuple[float, ...] = ()
    """Fixed multipliers for DALE without the dual update, a row each (Table 2)."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """A run of every method from each; the table shows mean and standard deviation."""
    out: Path = Path("runs/dale")
    """Folder of the results."""
    data_dir: Path | None = None
    """Folder of prepared TFDS sets (default: the environment variable TFDS_DATA_DIR)."""
    select: Literal["last", "best"] = "last"
    """Evaluate the last epoch, or the best by PGD accuracy on held-out training images."""
    noise: Literal["laplace", "gaussian"] = "laplace"
    """DALE's noise: laplace inside the sign (paper), or gaussian outside it (released code)."""
    dual_update: Literal["batch", "epoch"] = "batch"
    """When the multiplier moves: after every batch (released code) or every epoch (paper)."""
    attack_mode: Literal["eval", "train"] = "eval"
    """Batch statistics inside training attacks: running, or those of the batch."""
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    temperature: float | None = None
    """Of DALE's noise, sqrt(2 * step size * temperature)."""
    dual_step: float | None = None
    dual_initial: float | None = None
    model: str | None = None
    dtype: Literal["float32", "bfloat16"] | None = None
    limit: int | None = None
    """Keep at most so many images of each split."""
    progress: bool = True


def sampling(config: Config, settings: Recipe) -> dict[str, Any]:
    """The settings of DALE's Langevin steps."""
    return {
        "step_size": settings.step_size,
        "steps": settings.steps,
        "temperature": settings.temperature,
        "noise": config.noise,
        "place": "inside" if config.noise == "laplace" else "outside",
    }


def methods(config: Config, settings: Recipe, per_epoch: int) -> list[Method]:
    """The rows of the table."""
    threat = Linf(settings.epsilon)
    mode = {"attack_mode": config.attack_mode, "ramp": settings.ramp}
    steps = {"step_size": settings.step_size, "steps": settings.steps}
    sampler = sampling(config, settings)
    ascent = dual_ascent(
        settings.dual_step,
        initial=settings.dual_initial,
        period=per_epoch if config.dual_update == "epoch" else 1,
    )
    plain = {
        "erm": defenses.erm,
        "fgsm": lambda: defenses.fgsm(threat, **mode),
        "pgd": lambda: defenses.pgd(threat, **steps, **mode),
        "trades": lambda: defenses.trades(threat, beta=settings.beta, **steps, **mode),
    }
    constrained = {
        "dale": lambda rho: defenses.dale(threat, rho=rho, **sampler, **mode),
        "kl_dale": lambda rho: defenses.kl_dale(threat, rho=rho, **steps, **mode),
        "reverse_dale": lambda rho: defenses.dale(threat, rho=rho, reverse=True, **sampler, **mode),
    }
    rows = []
    for name in config.methods:
        checks.choice("method", name, METHODS)
        if name in plain:
            rows.append(Method(name, plain[name]()))
        else:
            for rho in settings.rho:
                rows.append(Method(f"{name} rho={rho:g}", constrained[name](rho), ascent, rho))
    for nu in config.nu:
        # A dual step of 0 keeps the multiplier; the constraint level is then only logged against.
        held = dual_ascent(0.0, initial=nu)
        rows.append(Method(f"dale nu={nu:g}", constrained["dale"](0.0), held))
    return rows


def sampling_attacks(config: Config, settings: Recipe) -> dict[str, Attack]:
    """The perturbations that Figure 1 compares, by the row whose model they attack."""
    threat = Linf(settings.epsilon)
    steps = {"step_size": settings.step_size, "steps": settings.steps}
    return {
        "fgsm": attacks.fgsm(threat),
        "pgd": attacks.pgd(threat, **steps, keep="last"),
        "dale": attacks.langevin(threat, **sampling(config, settings)),
    }


def figure_1(
    config: Config, shared: Study, outcomes: Sequence[Outcome], *, count: int = 500
) -> figures.Figure | None:
    """Training perturbations of FGSM, PGD and DALE, each on its own model; None without runs."""
    dataset = shared.dataset
    x = dataset.train.x[:count].astype(np.float32) / 255
    shifts = {}
    for name, attack in sampling_attacks(config, shared.recipe).items():
        own = next((o for o in outcomes if o.method.split()[0] == name), None)
        if own is not None:
            report = evaluate(
                jax.random.key(own.seed),
                shared.model,
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
    """Held-out accuracies, training losses and the multiplier of a run over its epochs."""
    history = [{name: row[name] for name in FIGURE_2 if name in row} for row in outcome.history]
    return figures.training_curves(history, rho=rho)


def main(config: Config) -> list[dict]:
    """Runs the study; returns the rows of its table."""
    began = time.perf_counter()
    settings = recipe(
        config.dataset,
        config.preset,
        epochs=config.epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        temperature=config.temperature,
        dual_step=config.dual_step,
        dual_initial=config.dual_initial,
        model=config.model,
        dtype=config.dtype,
        rho=config.rho,
    )
    for name in config.methods:
        checks.choice("method", name, METHODS)
    for name, values in (
        ("methods", config.methods),
        ("rho", settings.rho),
        ("nu", config.nu),
        ("seeds", config.seeds),
    ):
        if len(set(values)) < len(values):
            raise ValueError(f"{name} holds a value twice: {' '.join(map(str, values))}")
    if not config.seeds or not (config.methods or config.nu):
        raise ValueError("nothing to run: give at least one of --seeds, and of --methods or --nu")
    dataset = data.load(
        config.dataset,
        data_dir=config.data_dir,
        validation=settings.validation,
        limit=config.limit,
    )
    folder = config.out / f"{config.dataset}-{config.preset}"
    identity = {
        "dataset": config.dataset,
        "limit": config.limit,
        "noise": config.noise,
        "dual_update": config.dual_update,
        "attack_mode": config.attack_mode,
        # The levels name the rows; each run's own is in its name.
        "recipe": {k: v for k, v in dataclasses.asdict(settings).items() if k != "rho"},
    }
    per_epoch = training.steps_per_epoch(dataset, settings.batch_size)
    rows = methods(config, settings, per_epoch)
    shared = study(settings, dataset)
    outcomes, by_rho = [], {}
    for method in rows:
        for seed in config.seeds:
            own = folder / f"{method.name.replace(' ', '-')}-seed{seed}"
            outcome = run(
                shared,
                method,
                seed,
                folder=own,
                config={**identity, "method": method.name, "rho": method.rho},
                select=config.select,
                progress=config.progress,
            )
            outcomes.append(outcome)
            if method.rho is not None:
                by_rho.setdefault(method, outcome)
    if jax.process_index() != 0:
        return summarize(outcomes)

    table = summarize(outcomes, PUBLISHED.get(config.dataset))
    publish(folder / "table", _title(config, settings, dataset), table)
    drawn = [folder / "table.md"]
    scatter = figure_1(config, shared, outcomes)
    if scatter is not None:
        drawn.append(figures.save_figure(scatter, folder / "figure1_perturbations.png"))
    for method, outcome in by_rho.items():
        curves = figure_2(outcome, method.rho)
        name = f"figure2_{method.name.replace(' ', '_')}.png"
        drawn.append(figures.save_figure(curves, folder / name))
    console = Console()
    for path in drawn:
        console.print(f"wrote {path}", soft_wrap=True)
    console.print(f"{time.perf_counter() - began:.0f} s on {jax.device_count()} device(s)")
    return table


def _title(config: Config, settings: Recipe, dataset: Dataset) -> str:
    attack = list(table_attacks(settings))[-1]
    return (
        f"{dataset.label}: {settings.model}, {settings.epochs} epochs, "
        f"{dataset.train.size} training and {dataset.test.size} test images, "
        f"eps {settings.epsilon:.3g}, {attack} step {settings.eval_step_size:.3g}, "
        f"{config.select} epoch, seeds {' '.join(map(str, config.seeds))}; "
        "mean ± standard deviation, %"
    )


if __name__ == "__main__":
    command_line(main, Config, __doc__)
