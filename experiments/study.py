"""Training and evaluating the rows of a table: what every experiment script shares."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from experiments.recipes import Recipe
from jaxrobust import attacks, training
from jaxrobust.data import Dataset, Split
from jaxrobust.defenses import Defense
from jaxrobust.evaluation import Report, evaluate
from jaxrobust.files import write_csv, write_text_atomic
from jaxrobust.lagrangian import Multiplier
from jaxrobust.models import build, from_linen
from jaxrobust.threats import Linf
from jaxrobust.types import Attack, Model, Variables

CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)
EVAL_BATCH = 500
AUGMENT = training.crop_flip()


def command_line(main: Callable[[Any], Any], config: type, description: str | None) -> None:
    """Runs `main` on the options of the command line; a user's mistake ends in one line, status 2.

    `JAXROBUST_TRACEBACK=1` shows where it was raised.
    """
    options = tyro.cli(config, description=description)
    try:
        main(options)
    except (ValueError, OSError, FloatingPointError, training.CheckpointError) as error:
        if os.environ.get("JAXROBUST_TRACEBACK"):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


@dataclasses.dataclass(frozen=True)
class Method:
    """A row of the table: a training method with its hyperparameters."""

    name: str
    """Unique; names the run folder and the row."""
    defense: Defense
    multiplier: Multiplier | None = None
    rho: float | None = None


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One trained and evaluated run."""

    method: str
    seed: int
    report: Report
    history: Sequence[Mapping[str, Any]]
    variables: Variables

    @property
    def accuracies(self) -> dict[str, float]:
        """Clean and robust accuracies in %, by column."""
        robust = {name: attack.accuracy for name, attack in self.report.attacks.items()}
        return {"Clean": self.report.clean_accuracy, **robust}


@dataclasses.dataclass(frozen=True)
class Study:
    """What all rows of a table share. Built once: runs that share it share compiled programs."""

    recipe: Recipe
    dataset: Dataset
    model: Model
    optimizer: optax.GradientTransformation
    validate: training.Validate | None


def network(name: str, dtype: str, dataset: Dataset) -> Model:
    """The network called `name` for a data set; color images are normalized in the model."""
    options: dict[str, Any] = {"dtype": jnp.dtype(dtype)}
    if dataset.shape[-1] == 3:
        options |= {"mean": CIFAR_MEAN, "std": CIFAR_STD}
    return from_linen(build(name, dataset.num_classes, **options))


def study(recipe: Recipe, dataset: Dataset) -> Study:
    """The recipe's model and optimizer for a data set."""
    model = network(recipe.model, recipe.dtype, dataset)
    total = recipe.epochs * training.steps_per_epoch(dataset, recipe.batch_size)
    rate = training.schedule(
        recipe.schedule, recipe.learning_rate, total, **recipe.schedule_options
    )
    optimizer = training.optimizer(
        recipe.optimizer, rate, momentum=recipe.momentum, weight_decay=recipe.weight_decay
    )
    validate = _validator(model, recipe, dataset.validation) if recipe.validation else None
    return Study(recipe, dataset, model, optimizer, validate)


def table_attacks(recipe: Recipe) -> dict[str, Attack]:
    """The attacks of the table: FGSM, and PGD with a uniform start."""
    threat = Linf(recipe.epsilon)
    pgd = attacks.pgd(threat, step_size=recipe.eval_step_size, steps=recipe.eval_steps)
    return {"FGSM": attacks.fgsm(threat), f"PGD{recipe.eval_steps}": pgd}


def run(
    study: Study,
    method: Method,
    seed: int,
    *,
    folder: Path,
    config: Mapping[str, Any],
    select: str = "last",
    progress: bool = True,
) -> Outcome:
    """Trains one method from one seed (resuming), then attacks it on the whole test split.

    Args:
      folder: of this run. config: what identifies it.
      select: evaluate the "last" epoch, or the "best" by PGD accuracy on the validation images.
    """
    recipe, dataset = study.recipe, study.dataset
    result = training.fit(
        seed,
        study.model,
        method.defense,
        dataset,
        study.optimizer,
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        run=folder,
        config=config,
        multiplier=method.multiplier,
        augment=AUGMENT if recipe.augment else None,
        validate=study.validate,
        best_by="val_pgd_accuracy" if study.validate else None,
        progress=progress,
    )
    state = result.best if select == "best" else result.state
    report = evaluate(
        jax.random.key(seed),
        study.model,
        state.variables,
        dataset.test,
        table_attacks(recipe),
        batch_size=EVAL_BATCH,
        num_classes=dataset.num_classes,
        progress=progress,
        metadata={
            "data": dataset.label,
            "method": method.name,
            "model": recipe.model,
            "seed": seed,
            "epsilon": recipe.epsilon,
            "checkpoint": select,
        },
    )
    if jax.process_index() == 0:
        report.save(folder / f"test_{select}")
    return Outcome(method.name, seed, report, result.history, state.variables)


def _validator(model: Model, recipe: Recipe, split: Split) -> training.Validate:
    """Clean and PGD accuracy on held-out images after every epoch."""
    pgd = attacks.pgd(Linf(recipe.epsilon), step_size=recipe.step_size, steps=recipe.steps)

    def validate(variables: Variables) -> dict[str, float]:
        report = evaluate(
            jax.random.key(0),
            model,
            variables,
            split,
            {"pgd": pgd},
            batch_size=min(EVAL_BATCH, split.size),
            progress=False,
        )
        return {
            "val_clean_accuracy": report.clean_accuracy,
            "val_pgd_accuracy": report.attacks["pgd"].accuracy,
        }

    return validate


def summarize(
    outcomes: Sequence[Outcome], published: Mapping[str, Sequence[float]] | None = None
) -> list[dict[str, Any]]:
    """A row per method: mean and sample standard deviation over seeds of every accuracy, in %.

    Constrained methods also show their last multiplier and training clean loss, means over seeds.

    Args:
      published: the paper's figures by method, in the order of the columns.
    """
    rows = []
    for method in dict.fromkeys(outcome.method for outcome in outcomes):
        runs = [outcome.accuracies for outcome in outcomes if outcome.method == method]
        row: dict[str, Any] = {"method": method, "seeds": len(runs)}
        for column in runs[0]:
            values = np.asarray([r[column] for r in runs])
            row[column] = float(values.mean())
            row[f"{column} std"] = float(values.std(ddof=1)) if len(runs) > 1 else None
        last = [o.history[-1] for o in outcomes if o.method == method]
        for column, key in (("nu", "multiplier"), ("clean loss", "train_clean_loss")):
            # A constraint that is slack while nu > 0 says that the dual ascent is still under way.
            values = [r[key] for r in last if "multiplier" in r]
            row[column] = float(np.mean(values)) if values else None
        if published is not None:
            figures = published.get(method)
            row["published"] = "" if figures is None else " / ".join(f"{f:g}" for f in figures)
        rows.append(row)
    return rows


def _cells(row: Mapping[str, Any]) -> dict[str, str]:
    """A row's figures as text, `mean±std`."""
    cells = {}
    for name, value in row.items():
        if name.endswith(" std") or name == "seeds":
            continue
        std = row.get(f"{name} std")
        text = f"{value:.2f}" if isinstance(value, float) else str(value)
        text = "" if value is None else text
        cells[name] = text if std is None else f"{text}±{std:.2f}"
    return cells


def publish(stem: Path, title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints the table and writes it as `stem`.json, .csv and .md."""
    cells = [_cells(row) for row in rows]
    columns = list(cells[0])
    shown = Table(title=title, box=box.SIMPLE_HEAD)
    for column in columns:
        left = column == "method"
        shown.add_column(column, justify="left" if left else "right", no_wrap=left)
    for row in cells:
        shown.add_row(*row.values())
    lines = [columns, ["---"] * len(columns), *(row.values() for row in cells)]
    markdown = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    write_text_atomic(stem.with_suffix(".json"), json.dumps({"title": title, "rows": rows}) + "\n")
    write_csv(stem.with_suffix(".csv"), rows)
    write_text_atomic(stem.with_suffix(".md"), f"{title}\n\n{markdown}\n")
    console = Console()
    # A terminal too narrow wraps lines; to shorten headings and figures would lose them.
    needed = console.measure(shown, options=console.options.update(max_width=1000)).maximum
    Console(width=max(console.width, needed)).print(shown)
