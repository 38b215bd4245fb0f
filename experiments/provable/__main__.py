"""Provable defenses: chapter 3 of Wong's thesis.

    python -m experiments.provable
    python -m experiments.provable --preset mnist-released --pretrained-dir weights
    python -m experiments.provable --preset mnist --methods standard dual projections --epochs 10
    python -m experiments.provable --preset mnist-scaled --networks wide1 wide2 deep1 deep2
    python -m experiments.provable --preset cifar10 --parts table cascade --eps 2/255

quick runs every part on the embedded digits; mnist-released certifies the released networks and
cascades without training; the others train with the thesis' settings (a GPU). Runs and batches are
saved when they end: run the same command again after an interruption, or with rows added.
Table 3.3's data set (HAR) is not among TFDS': mnist-hidden runs its network on MNIST.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from experiments.common.attack_menu import MENU, listed, menu_item, number
from experiments.common.runner import command_line
from experiments.common.tables import publish
from experiments.provable import cascades, estimators, exactness, plots, released, tables
from experiments.provable.certifiers import CERTIFICATES, OPTIMIZED
from experiments.provable.costs import cost_rows
from experiments.provable.measure import Measured, Run
from experiments.provable.planar import planar
from experiments.provable.recipes import METHODS, NETWORKS, PARTS, PRESETS, RELEASED, Setting
from experiments.provable.subjects import Subject, Trainer
from jaxrobust import checks, data, figures
from jaxrobust.data import Dataset

UPPER = 4.0
"""Largest radius tried in figure 3.7, in radii of training."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Trains networks on certified bounds, attacks and certifies them, and prints their errors."""

    preset: str = "quick"
    """quick, mnist-released, mnist (Table 3.1), mnist-scaled, mnist-0.3 (3.5, 3.6), mnist-l2 (3.7),
    mnist-hidden (3.3), fashion_mnist, svhn_cropped (3.1), cifar10 (3.5), cifar10-l2 (3.7)."""
    parts: tuple[str, ...] | None = None
    """Of toy (Figures 3.3 to 3.5), table, cascade, radii (Figure 3.7), estimators (3.19) and costs
    (3.20); default: the preset's."""
    networks: tuple[str, ...] | None = None
    """Of small, large, resnet, wide1 to wide16, deep1 to deep3, fc500."""
    eps: tuple[str, ...] | None = None
    """Radii of training and evaluation, numbers or fractions, a row each."""
    methods: tuple[str, ...] | None = None
    """Of standard, dual (exact Wong-Kolter bounds), projections and interval."""
    attacks: tuple[str, ...] = ("fgsm", "pgd")
    """Names in the menu of `experiments.evaluate`; apgd-t is stronger."""
    certificates: tuple[str, ...] = (*CERTIFICATES, OPTIMIZED)
    """Columns of certified errors."""
    seeds: tuple[int, ...] = (0,)
    """A network of every row is trained from each."""
    limit: int | None = None
    """Attack and certify the first so many test images."""
    exact: int | None = None
    """Undecided images to settle by an integer program (linf), of networks of the first method
    that trains on bounds."""
    radii: int | None = None
    """Images whose largest certified radius is sought."""
    train_limit: int | None = None
    """Train on the first so many images."""
    epochs: int | None = None
    train_batch_size: int | None = None
    learning_rate: float | None = None
    samples: int | None = None
    """Random projections in training."""
    stages: int | None = None
    """Networks of each cascade, trained by the first method that trains on bounds."""
    chunk: int | None = None
    """Rows of a bound at a time, to save memory."""
    pretrained_dir: Path | None = None
    """Folder of the released weights, for the preset mnist-released."""
    reference_dir: Path | None = None
    """Folder of the released code's bounds on MNIST, to compare ours with; test images then come in
    the original order."""
    data_dir: Path | None = None
    """Folder of prepared TFDS sets (default: the environment variable TFDS_DATA_DIR)."""
    batch_size: int = 100
    """Images attacked or certified at a time."""
    out: Path = Path("runs/provable")
    progress: bool = True


def setting(config: Config) -> Setting:
    """The preset's setting with the options that are given.

    Raises:
      ValueError: an unknown name, an option of another preset, or an impossible number.
    """
    checks.choice("preset", config.preset, PRESETS)
    preset = PRESETS[config.preset]
    is_released = config.preset == RELEASED
    given = {
        name: getattr(config, name)
        for name in (
            "parts", "networks", "methods", "limit", "exact", "radii", "samples", "stages", "chunk"
        )
        if getattr(config, name) is not None
    }  # fmt: skip
    if config.eps is not None:
        given["epsilons"] = tuple(number(text) for text in listed(config.eps))
    training = {
        "epochs": config.epochs,
        "batch_size": config.train_batch_size,
        "learning_rate": config.learning_rate,
    }
    changes = {name: value for name, value in training.items() if value is not None}
    chosen = dataclasses.replace(
        preset, **given, recipe=dataclasses.replace(preset.recipe, **changes)
    )
    if is_released != (config.pretrained_dir is not None):
        raise ValueError(
            f"--pretrained-dir and --preset {RELEASED} belong together: the one certifies what the "
            "other holds; to train on MNIST instead, use --preset mnist"
        )
    trains = {"networks", "epsilons", "samples", "stages"} & given.keys() | changes.keys()
    if is_released and (trains or config.train_limit is not None or config.seeds != (0,)):
        named = ", ".join(sorted(trains)) or "train_limit or seeds"
        raise ValueError(f"--preset {RELEASED} trains nothing, so that {named} changes nothing")
    if config.reference_dir is not None and not is_released:
        raise ValueError(f"--reference-dir holds bounds of the networks of --preset {RELEASED}")
    known = {
        "parts": (chosen.parts, PARTS),
        "networks": (chosen.networks, NETWORKS),
        "methods": (chosen.methods, released.WEIGHTS if is_released else METHODS),
        "certificates": (config.certificates, (*CERTIFICATES, OPTIMIZED)),
        "attacks": (tuple(listed(config.attacks)), MENU),
    }
    for name, (values, all_known) in known.items():
        for value in values:
            checks.choice(name, value, all_known)
        if len(set(values)) < len(values):
            raise ValueError(f"{name} holds a value twice: {' '.join(values)}")
    for name, values in {**{n: v for n, (v, _) in known.items()}, "seeds": config.seeds}.items():
        if not values and name != "attacks":
            raise ValueError(f"nothing to do: --{name} names none")
    for attack in known["attacks"][0]:
        menu_item(attack, chosen.norm)
    for radius in chosen.epsilons:
        checks.positive("eps", radius)
    for name, least in (
        ("limit", 1), ("radii", 1), ("samples", 1), ("stages", 1), ("exact", 0), ("attack_steps", 1)
    ):  # fmt: skip
        checks.at_least(name, getattr(chosen, name), least)
    if chosen.exact and chosen.norm != "linf":
        raise ValueError("integer programs know linf balls only: use --exact 0")
    return chosen


def load(config: Config, chosen: Setting) -> Dataset:
    """The data set: the training images asked for, and all test images."""
    dataset = data.load(chosen.dataset, data_dir=config.data_dir)
    if config.reference_dir is not None:
        dataset = released.ordered(dataset, config.reference_dir)
    if config.train_limit is not None:
        checks.at_least("train_limit", config.train_limit, 1)
        train = dataset.train.first(config.train_limit)
        dataset = dataclasses.replace(dataset, train=train)
    return dataset


@dataclasses.dataclass
class Results:
    """What there is to publish by the stem of its file: tables with their titles, and figures."""

    title: str
    tables: dict[str, tuple[str, Sequence[Mapping[str, Any]]]]
    figures: dict[str, figures.Figure]

    def add(self, name: str, rows: Sequence[Mapping[str, Any]], title: str | None = None) -> None:
        """A table, unless it is empty; titled as the study unless given."""
        if rows:
            self.tables[name] = (f"{name}; {title or self.title}", rows)


def certify(config: Config, run: Run, subjects: Sequence[Subject], results: Results) -> None:
    """Tables 3.1, 3.3 or 3.6: errors, sandwiches, exact verdicts."""
    measured = [run.measure(subject) for subject in subjects]
    results.add("table", tables.error_rows(measured, run.setting))
    for one in measured:
        one.sandwich.save(run.folder / "sandwich" / one.subject.name)
    if run.setting.exact:
        settled = [one for one in measured if one.subject.row.method == run.setting.main]
        answers = [row for one in settled for row in exactness.settled(run, one)]
        results.add("exact", answers, "undecided images settled by an integer program")
    if config.reference_dir is not None:
        results.add("reference", _compared(config, measured), "our bounds and the released code's")


def _compared(config: Config, measured: Sequence[Measured]) -> list[dict[str, Any]]:
    return [
        released.beside(one, config.reference_dir)
        for one in measured
        if one.subject.row.method == "dual" and "Wong-Kolter" in one.certified
    ]


def draw_radii(run: Run, subjects: Sequence[Subject], results: Results) -> None:
    """Figure 3.7, with the first seed and radius of every method."""
    shown = {s.row.method: s for s in reversed(subjects)}
    upper = UPPER * run.setting.epsilons[0]
    found = {m: run.radii(shown[m], upper) for m in run.setting.methods}
    results.figures["figure7_radii"] = plots.radius_ranks(found, run.setting.epsilons[0])


def draw_estimators(subjects: Sequence[Subject], results: Results) -> None:
    """Figure 3.19, on the first network with convolutions that was trained on bounds."""
    kernels = [
        (s.row.method, s.variables.params["conv2"]["kernel"])
        for s in subjects
        if s.row.method != "standard" and "conv2" in s.variables.params
    ]
    if not kernels:
        return
    method, kernel = kernels[0]
    layers = {
        "random": estimators.untrained(jax.random.key(0), kernel),
        f"trained ({method})": kernel,
    }
    errors = {n: estimators.relative_errors(jax.random.key(1), k) for n, k in layers.items()}
    results.figures["figure19_estimators"] = plots.estimator_histograms(errors)


def main(config: Config) -> dict[str, Sequence[Mapping[str, Any]]]:
    """Runs the study; returns the rows of its tables by name."""
    began = time.perf_counter()
    chosen = setting(config)
    dataset = load(config, chosen)
    base = config.out / config.preset
    order = "" if config.reference_dir is None else "-original-order"
    folder = base / f"first{chosen.limit}{order}"
    run = Run(
        chosen, folder, listed(config.attacks), config.certificates, config.batch_size,
        config.progress,
    )  # fmt: skip
    is_released = config.preset == RELEASED
    title = tables.described(chosen, dataset.label, config.seeds, released=is_released)
    results = Results(title, {}, {})
    trainer = Trainer(chosen, dataset, base, config.progress)
    subjects: list[Subject] = []
    if set(chosen.parts) - {"toy", "costs"}:
        if is_released:
            subjects = list(released.subjects(chosen, dataset, config.pretrained_dir))
        else:
            subjects = list(trainer.subjects(config.seeds))

    def make_toy() -> None:
        made = planar(config.seeds[0])
        for name, rows in made.tables.items():
            results.add(name, rows, made.title)
        results.figures.update(made.figures)

    def make_cascades() -> None:
        if is_released:
            found = released.cascades(chosen, dataset, config.pretrained_dir, config.data_dir)
        else:
            taught = [s for s in subjects if s.row.method == chosen.main]
            found = (cascades.trained(trainer, subject) for subject in taught)
        rows = [row for cascade in found for row in cascades.stage_rows(run, cascade)]
        about = f"first {chosen.limit} test images, {chosen.note}" if is_released else title
        results.add("cascades", rows, f"errors in % by the rules of duals.cascade; {about}")

    def make_costs() -> None:
        rows = cost_rows(chosen.filters, chosen.samples, dataset.shape)
        title = f"bounds of two 3x3 convolutions on {dataset.shape} images, one at a time"
        results.add("costs", rows, f"{title}, {chosen.samples} projections")
        results.figures["figure20_costs"] = plots.costs(rows)

    makers: Mapping[str, Callable[[], None]] = {
        "toy": make_toy,
        "table": lambda: certify(config, run, subjects, results),
        "cascade": make_cascades,
        "radii": lambda: draw_radii(run, subjects, results),
        "estimators": lambda: draw_estimators(subjects, results),
        "costs": make_costs,
    }
    for part in PARTS:
        if part in chosen.parts:
            makers[part]()
    if jax.process_index() == 0:
        for name, (title, rows) in results.tables.items():
            publish(folder / name, title, rows)
        console = Console()
        for name, figure in results.figures.items():
            path = figures.save_figure(figure, folder / f"{name}.png")
            console.print(f"wrote {path}", soft_wrap=True)
        took = time.perf_counter() - began
        console.print(f"{took:.0f} s on {jax.device_count()} device(s)")
    return {name: rows for name, (_, rows) in results.tables.items()}


if __name__ == "__main__":
    command_line(main, Config, __doc__)
