"""Attacks a trained model: accuracy under every attack, worst case, warnings and figures.

    python -m experiments.evaluate --checkpoint runs/dale/digits-quick/pgd-seed0 --eps 0.2
    python -m experiments.evaluate --pretrained mnist_small_pgd_linf_0.3 --pretrained-dir weights \
        --dataset mnist --eps 0.3 --attacks autoattack,beta --limit 1000
    python -m experiments.evaluate --checkpoint RUN --threat l2 --eps 1 --attacks pgd \
        --curve 0.25,0.5,1,1.5 --curve-attack ddn --grid 8

By default each attack sees the images that those before it left standing, so that the last accuracy
is that of their union, at the least cost; `--individually` runs each on all images. Every batch is
saved when it ends: run the same command again after an interruption, or with further attacks.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console

from experiments.common.attack_menu import (
    MENU,
    Budget,
    listed,
    make_attacks,
    make_threat,
    menu_item,
    number,
)
from experiments.common.runner import command_line
from experiments.common.trained import Trained, from_run, released, run_config
from jaxrobust import checks, data, evaluation, figures
from jaxrobust.data import Dataset, Split, to_float
from jaxrobust.evaluation import Curve, Flag, Report, attack_flags, audit
from jaxrobust.files import write_text_atomic
from jaxrobust.types import Attack


@dataclasses.dataclass(frozen=True)
class Config:
    """Robust accuracies of one trained model."""

    checkpoint: Path | None = None
    """Folder of a training run, such as those of `experiments.dale`."""
    pretrained: str | None = None
    """Released weights instead: a path to an .npz file, or its stem in --pretrained-dir."""
    pretrained_dir: Path = Path(".")
    select: Literal["last", "best"] = "last"
    """Epoch of --checkpoint: the last one, or the best on held-out training images."""
    dataset: str | None = None
    """digits, mnist, cifar10, ... (default: the one that --checkpoint was trained on)."""
    data_dir: Path | None = None
    """Folder of prepared TFDS sets (default: the environment variable TFDS_DATA_DIR)."""
    split: Literal["test", "validation", "train"] = "test"
    """validation: the training images that --checkpoint held out; train: without those."""
    limit: int | None = None
    """Keep the first so many images."""
    threat: Literal["linf", "l2", "l1"] = "linf"
    eps: str = "8/255"
    """Radius in pixels of [0, 1]: a number or a fraction."""
    attacks: tuple[str, ...] = ("autoattack",)
    """Names with commas or spaces between, in their order; see above."""
    individually: bool = False
    """Run every attack on all images, not only on those that the attacks before it left."""
    budget: tyro.conf.OmitArgPrefixes[Budget] = dataclasses.field(default_factory=Budget)
    curve: tuple[str, ...] = ()
    """Radii at which to draw a robustness curve."""
    curve_attack: str = "pgd"
    """Attack of the curve; one that seeks the smallest perturbation runs once for all radii."""
    grid: int = 0
    """Draw so many adversarial images, of the attack that broke the most."""
    seed: int = 0
    batch_size: int = 500
    out: Path | None = None
    """Folder of the results (default: a name under runs/evaluate that says what is evaluated)."""
    progress: bool = True


def load(config: Config) -> tuple[Trained, Dataset]:
    """The model and the data set that the options name."""
    if (config.checkpoint is None) == (config.pretrained is None):
        raise ValueError("give the model as either --checkpoint RUN or --pretrained NAME")
    held = {} if config.checkpoint is None else run_config(config.checkpoint)
    name = config.dataset or held.get("dataset")
    if name is None:
        raise ValueError("--pretrained needs --dataset: released weights do not name their data")
    # The draw of the held-out images depends on their number alone.
    held_out = held.get("recipe", {}).get("validation", 0)
    if config.split == "validation" and not held_out:
        raise ValueError("this model held out no training images: use --split test or train")
    dataset = data.load(name, data_dir=config.data_dir, validation=held_out, limit=config.limit)
    if config.checkpoint is None:
        return released(config.pretrained, config.pretrained_dir, dataset), dataset
    return from_run(config.checkpoint, config.select, dataset), dataset


def default_folder(config: Config, dataset: Dataset) -> Path:
    """A folder whose name tells evaluations of different models, data or sets apart."""
    if config.pretrained:
        model = Path(config.pretrained).stem
    else:
        # Script, recipe and run: runs of several studies share their last name.
        model = "-".join(config.checkpoint.resolve().parts[-3:])
    parts = [model, dataset.name, config.split, config.threat, config.eps]
    parts += [config.select] if config.checkpoint else []
    parts += [f"first{config.limit}"] if config.limit else []
    parts += ["individually"] if config.individually else []
    return Path("runs/evaluate") / "-".join(parts).replace("/", "_")


def draw_curve(
    config: Config, radii: list[float], trained: Trained, examples: Split, **options: Any
) -> Curve:
    """Robust accuracy at the radii; an attack that seeks the least norm runs once for all."""
    name, norm = config.curve_attack, config.threat
    item = menu_item(name, norm)
    task = (jax.random.key(config.seed), trained.model, trained.variables, examples)
    if item.least_norm:
        # Its search does not depend on the radius.
        attack = item.make(make_threat(norm, 1.0), config.budget)
        report = evaluation.evaluate(*task, {name: attack}, **options)
        return evaluation.curve_of_norms(report, name, radii)

    def at_radius(radius: float) -> Attack:
        return item.make(make_threat(norm, radius), config.budget)

    return evaluation.curve(*task, at_radius, radii, **options)


def draw_grid(
    report: Report, trained: Trained, examples: Split, count: int
) -> figures.Figure | None:
    """The first images broken by the attack that broke the most; None where nothing broke."""
    broken = {
        name: np.flatnonzero(report.clean & a.inside & ~(a.margin < 0) & np.isfinite(a.norm))
        for name, a in report.attacks.items()
    }
    strongest = max(broken, key=lambda name: broken[name].size, default=None)
    if strongest is None or not broken[strongest].size:
        return None
    rows = broken[strongest][:count]
    points = jnp.asarray(report.attacks[strongest].examples[rows])
    logits, _ = trained.model.apply(trained.variables, points, train=False, key=None, axes=())
    clean = np.asarray(to_float(examples.x[rows]))
    return figures.examples_grid(
        clean, np.asarray(points), examples.y[rows], np.asarray(logits.argmax(axis=-1))
    )


def main(config: Config) -> Report:
    """Evaluates the model; writes report, warnings and figures, and returns the report."""
    began = time.perf_counter()
    radius, radii = number(config.eps), [number(r, "curve") for r in listed(config.curve)]
    suite = make_attacks(listed(config.attacks), config.threat, radius, config.budget)
    if radii:
        drawn_by = make_attacks([config.curve_attack], config.threat, radii[-1], config.budget)
        if list(drawn_by) != [config.curve_attack]:
            raise ValueError(
                f"{config.curve_attack} is a suite, which draws no curve; choose one of its "
                "attacks, such as --curve-attack apgd-t"
            )
    checks.at_least("grid", config.grid, 0)
    trained, dataset = load(config)
    examples: Split = getattr(dataset, config.split)
    folder = config.out or default_folder(config, dataset)
    options = {
        "batch_size": config.batch_size,
        "num_classes": dataset.num_classes,
        "progress": config.progress,
    }
    report = evaluation.evaluate(
        jax.random.key(config.seed),
        trained.model,
        trained.variables,
        examples,
        suite,
        survivors=not config.individually,
        keep_examples=config.grid > 0,
        folder=folder / "batches",
        metadata={
            "data": f"{dataset.label}, {config.split}",
            "model": trained.name,
            "threat": f"{config.threat} {config.eps}",
            "seed": config.seed,
            "attacked": "all images" if config.individually else "survivors; accuracies accumulate",
        },
        **options,
    )
    flags = audit(
        trained.model,
        trained.variables,
        examples,
        key=jax.random.key(config.seed),
        batch_size=config.batch_size,
    )
    drawn = {}
    if radii:
        own = folder / "curve" / config.curve_attack
        curve = draw_curve(config, radii, trained, examples, folder=own, **options)
        drawn["curve"] = figures.robustness_curve({config.curve_attack: curve}, unit=config.threat)
    if jax.process_index() == 0:
        if config.grid:
            drawn["grid"] = draw_grid(report, trained, examples, config.grid)
        publish(folder, report, [*flags, *attack_flags(report)], drawn)
        Console().print(f"{time.perf_counter() - began:.0f} s on {jax.device_count()} device(s)")
    return report


def publish(
    folder: Path,
    report: Report,
    flags: Sequence[Flag],
    drawn: Mapping[str, figures.Figure | None],
) -> None:
    """Prints the table and the warnings, and writes both and the figures."""
    console = Console()
    report.print(console)
    for flag in flags:
        told = f"{flag.severity}: {flag.name}: {flag.message}"
        console.print(told, soft_wrap=True, markup=False)
    report.save(folder / "report")
    rows = [flag._asdict() for flag in flags]
    written = [folder / "report.md", write_text_atomic(folder / "flags.json", json.dumps(rows))]
    for name, figure in drawn.items():
        if figure is None:
            console.print(f"no image was broken: no {name} drawn")
        else:
            written.append(figures.save_figure(figure, folder / f"{name}.png"))
    for path in written:
        console.print(f"wrote {path}", soft_wrap=True)


if __name__ == "__main__":
    command_line(main, Config, f"{__doc__}\nAttacks: {', '.join(MENU)}.")
