"""Provable defenses: chapter 3 of Wong's thesis.

    python -m experiments.provable
    python -m experiments.provable --preset mnist-released --pretrained-dir weights
    python -m experiments.provable --preset mnist --methods standard dual projections --epochs 10
    python -m experiments.provable --preset mnist-scaled --networks wide1 wide2 deep1 deep2
    python -m experiments.provable --preset cifar10 --parts table cascade --eps 2/255
    python -m experiments.provable --parts curves projections stages filters activations slack
    python -m experiments.provable --preset har --har-dir "UCI HAR Dataset"

quick runs on the embedded digits, by default the parts that train each network once; mnist-released
certifies the released networks and cascades without training; the others train with the thesis'
settings (a GPU). Runs and batches are saved when they end: run the same command again after an
interruption, or with rows added.
Table 3.3's data set (HAR) is not among TFDS': har reads its published text files.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from rich.console import Console

from jaxrobust import figures

from ..common.attack_menu import listed
from ..common.cli import command_line
from ..common.tables import publish
from . import cascades, exactness, inside_plots, insides, learning, plots, released, tables
from .config import Config, load, setting
from .costs import cost_rows
from .learning import Lesson
from .measure import Run
from .planar import planar
from .plots import draw_estimators, draw_radii
from .recipes import FOLLOWED, PARTS, RELEASED
from .subjects import Subject, Trainer
from .tables import Results, _compared


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
    if set(chosen.parts) - {"toy", "costs", *FOLLOWED}:
        if is_released:
            subjects = list(released.subjects(chosen, dataset, config.pretrained_dir))
        else:
            subjects = list(trainer.subjects(config.seeds))

    followed = (
        f"{dataset.label}: robust errors in % after training, on the first {chosen.watched} images "
        f"of each split, seed {config.seeds[0]}"
    )

    def firsts() -> list[Subject]:
        """The first seed, network and radius of every method."""
        return list({s.row.method: s for s in reversed(subjects)}.values())[::-1]

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

    def make_curves() -> None:
        histories = learning.curves(Lesson(trainer, config.seeds[0]))
        results.add("curves", learning.gaps(histories), followed)
        results.figures["figure6_curves"] = inside_plots.learning(histories)

    def make_projections() -> None:
        histories = learning.projections(Lesson(trainer, config.seeds[0]))
        results.add("projections", learning.gaps(histories), followed)
        results.figures["figure21_projections"] = inside_plots.projections(histories)

    def make_stages() -> None:
        found = learning.stages(Lesson(trainer, config.seeds[0]))
        results.figures["figure18_stages"] = inside_plots.cascade(found)

    def make_filters() -> None:
        results.add("sparsity", insides.sparsity(firsts()), "weights below 1 % of the largest, %")
        for layer, name in enumerate(insides.kernels(firsts()[0])):
            shown = {s.row.method: insides.kernels(s)[name] for s in firsts()}
            results.figures[f"figure{9 + layer}_filters"] = inside_plots.filters(shown)

    def make_activations() -> None:
        found = {s.row.method: insides.activations(s) for s in firsts()}
        about = f"units of each ReLU layer over the ball, %; {title}"
        results.add("activations", insides.activation_rows(found), about)
        results.figures["figure11_activations"] = inside_plots.activations(found)

    def make_slack() -> None:
        found = {s.row.method: insides.slack(s, chosen.programs) for s in firsts()}
        about = f"Wong-Kolter margins below the linear program's, first {chosen.programs} images"
        results.add("slack", insides.slack_rows(found), f"{about}, % of the mean logit gap")
        results.figures["figure8_slack"] = inside_plots.slack(found)

    makers: Mapping[str, Callable[[], None]] = {
        "toy": make_toy,
        "table": lambda: certify(config, run, subjects, results),
        "cascade": make_cascades,
        "radii": lambda: draw_radii(run, subjects, results),
        "estimators": lambda: draw_estimators(subjects, results),
        "costs": make_costs,
        "curves": make_curves,
        "projections": make_projections,
        "stages": make_stages,
        "filters": make_filters,
        "activations": make_activations,
        "slack": make_slack,
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
