"""Training and evaluating the rows of a table: what every experiment script shares."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxrobust import attacks, training
from jaxrobust.data import Dataset, Split
from jaxrobust.evaluation import evaluate
from jaxrobust.models import build, from_linen
from jaxrobust.types import Attack, Model, Variables

from .recipes import Recipe
from .rows import BEST_BY, Judge, Method, Outcome

CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)
EVAL_BATCH = 500
AUGMENT = training.crop_flip()


Probe = Callable[[Model, Variables], Mapping[str, float]]
"""Further metrics of a model after every epoch, by name."""


@dataclasses.dataclass(frozen=True)
class Study:
    """What all runs of a row share. Built once: they share compiled programs."""

    recipe: Recipe
    dataset: Dataset
    model: Model
    optimizer: optax.GradientTransformation
    validate: training.Validate | None


def network(
    name: str, dtype: str, dataset: Dataset, model_options: Mapping[str, Any] | None = None
) -> Model:
    """The network called `name` for a data set; color images are normalized in the model.

    Options `mean` and `std` of None leave them as they are.

    The same arguments give the same object, so that rows with one network share programs.
    """
    color = len(dataset.shape) == 3 and dataset.shape[-1] == 3
    given = tuple(sorted((model_options or {}).items()))
    return _network(name, dtype, dataset.num_classes, color, given)


def judged_network(recipe: Recipe, dataset: Dataset) -> Model:
    """The network that a recipe's runs are judged with: the one trained, but never in float16.

    There gradients of confident predictions become exactly 0 and attacks stand still, which would
    pass for robustness. The same variables in float32, as the released code of fast adversarial
    training evaluates.
    """
    dtype = "float32" if recipe.dtype == "float16" else recipe.dtype
    return network(recipe.model, dtype, dataset, recipe.model_options)


@functools.lru_cache(maxsize=16)
def _network(
    name: str, dtype: str, num_classes: int, color: bool, given: tuple[tuple[str, Any], ...]
) -> Model:
    scaled = {"mean": CIFAR_MEAN, "std": CIFAR_STD} if color else {}
    return from_linen(
        build(name, num_classes, {"dtype": jnp.dtype(dtype), **scaled, **dict(given)})
    )


def study(
    recipe: Recipe, dataset: Dataset, *, replays: int = 1, probe: Probe | None = None
) -> Study:
    """The recipe's model and optimizer for a data set.

    Args:
      replays: steps on each batch, see `Defense`. probe: joins the validation after every epoch.
    """
    model = network(recipe.model, recipe.dtype, dataset, recipe.model_options)
    per_epoch = training.steps_per_epoch(dataset, recipe.batch_size, replays=replays)
    rate = training.schedule(
        recipe.schedule,
        recipe.learning_rate,
        recipe.epochs * per_epoch,
        recipe.schedule_options,
    )
    optimizer = training.optimizer(
        recipe.optimizer,
        rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        decay_all=recipe.decay_all,
        l1=recipe.l1,
    )
    validate = None
    if recipe.validation:
        validate = _validator(judged_network(recipe, dataset), recipe, dataset.validation, probe)
    return Study(recipe, dataset, model, optimizer, validate)


def table_attacks(recipe: Recipe) -> dict[str, Attack]:
    """The usual columns: FGSM, and PGD with a uniform start."""
    threat = recipe.threat
    pgd = attacks.pgd(threat, step_size=recipe.eval_step_size, steps=recipe.eval_steps)
    return {"FGSM": attacks.fgsm(threat), f"PGD{recipe.eval_steps}": pgd}


def judge(
    recipe: Recipe,
    *,
    columns: Mapping[str, Attack] | None = None,
    selects: tuple[str, ...] = ("last",),
) -> Judge:
    """The recipe's judge: its usual columns or others, and AutoAttack where it asks for that."""
    columns = table_attacks(recipe) if columns is None else columns
    suite = attacks.autoattack(recipe.threat) if recipe.autoattack else {}
    return Judge(columns, suite, recipe.autoattack, selects)


def run(
    study: Study,
    method: Method,
    seed: int,
    *,
    judge: Judge,
    folder: Path,
    config: Mapping[str, Any],
    progress: bool = True,
) -> Outcome:
    """Trains one method from one seed (resuming), then attacks it on the test split.

    Args:
      folder: of this run. config: what identifies it.
    """
    recipe, dataset = study.recipe, study.dataset
    parts = [AUGMENT] if recipe.augment else []
    parts += [method.augment] if method.augment is not None else []
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
        augment=_augmentation(tuple(parts)),
        validate=study.validate,
        best_by=BEST_BY if study.validate else None,
        stop=method.stop,
        progress=progress,
    )
    found = {s: result.best if s == "best" else result.state for s in judge.selects}
    model = judged_network(recipe, dataset)
    first = dataset.test.first(judge.suite_images)
    reports, suites = {}, {}
    for select, state in found.items():
        subject = (jax.random.key(seed), model, state.variables)
        options = {
            "batch_size": EVAL_BATCH,
            "num_classes": dataset.num_classes,
            "progress": progress,
            "metadata": {
                "data": dataset.label,
                "method": method.name,
                "model": recipe.model,
                "seed": seed,
                "epsilon": recipe.epsilon,
                "checkpoint": select,
            },
        }
        reports[select] = evaluate(*subject, dataset.test, judge.attacks, **options)
        stems = {folder / f"test_{select}": reports[select]}
        if judge.suite:
            own = folder / f"autoattack_{select}_{first.size}"
            suites[select] = evaluate(
                *subject, first, judge.suite, survivors=True, folder=own, **options
            )
            stems[own / "report"] = suites[select]
        if jax.process_index() == 0:
            for stem, report in stems.items():
                report.save(stem)
    variables = {select: state.variables for select, state in found.items()}
    return Outcome(method.name, seed, reports, suites, result.history, variables, method.rho)


def file_name(row: str) -> str:
    """What files and folders of a row are called: without blanks, and no path of several parts."""
    return row.replace(" ", "-").replace("/", "-")


def run_rows(
    methods: Sequence[Method],
    settings: Recipe,
    dataset: Dataset,
    *,
    judge: Judge,
    seeds: Sequence[int],
    folder: Path,
    identity: Mapping[str, Any],
    probe: Probe | None = None,
    progress: bool = True,
) -> list[Outcome]:
    """Trains and evaluates every method from every seed; runs of `folder` resume.

    Args:
      settings: that the rows share. identity: what, beside them, tells one run from another.
    """
    outcomes = []
    for method in methods:
        own = method.recipe(settings)
        data = method.dataset or dataset
        shared = study(own, data, replays=method.defense.replays, probe=probe)
        # The levels and the evaluation do not change a run; its own level is beside its name.
        kept = {k: v for k, v in dataclasses.asdict(own).items() if k not in ("rho", "autoattack")}
        for seed in seeds:
            outcomes.append(
                run(
                    shared,
                    method,
                    seed,
                    judge=judge,
                    folder=folder / f"{file_name(method.name)}-seed{seed}",
                    config={**identity, "recipe": kept, "method": method.name, "rho": method.rho},
                    progress=progress,
                )
            )
    return outcomes


def setup(
    settings: Recipe, dataset: Dataset, seeds: Sequence[int], rows: Sequence[Method] = ()
) -> str:
    """What a table was measured on, for its title; what `rows` change is left to them."""
    changed = {name for row in rows for name in row.changes}
    size = "by row" if any(row.dataset for row in rows) else dataset.train.size

    def of(name: str) -> Any:
        value = "by row" if name in changed else getattr(settings, name)
        return f"{value:.3g}" if isinstance(value, float) else value

    return (
        f"{dataset.label}: network {of('model')}, epochs {of('epochs')}, training images {size}, "
        f"test images {dataset.test.size}, {settings.norm} eps {of('epsilon')}, "
        f"PGD{settings.eval_steps} step {of('eval_step_size')}, "
        f"seeds {' '.join(map(str, seeds))}; mean ± standard deviation, %"
    )


@functools.lru_cache(maxsize=16)
def _augmentation(parts: tuple[training.Augment, ...]) -> training.Augment | None:
    return training.compose(*parts) if parts else None


def _validator(
    model: Model, recipe: Recipe, split: Split, probe: Probe | None
) -> training.Validate:
    """Clean and PGD accuracy on held-out images after every epoch."""
    pgd = attacks.pgd(recipe.threat, step_size=recipe.step_size, steps=recipe.steps)

    def validate(variables: Variables) -> dict[str, float]:
        clean, robust = clean_and_robust(model, variables, split, pgd)
        return {
            "val_clean_accuracy": clean,
            BEST_BY: robust,
            **(probe(model, variables) if probe else {}),
        }

    return validate


def clean_and_robust(
    model: Model, variables: Variables, split: Split, attack: Attack
) -> tuple[float, float]:
    """Clean accuracy and accuracy under an attack, in %; always with the same random numbers."""
    report = evaluate(
        jax.random.key(0),
        model,
        variables,
        split,
        {"pgd": attack},
        batch_size=min(EVAL_BATCH, split.size),
        progress=False,
    )
    return report.clean_accuracy, report.attacks["pgd"].accuracy
