r"""Attacks a trained model: accuracy under every attack, worst case, warnings and figures.

    python -m experiments.evaluate --checkpoint runs/dale/digits-quick/pgd-seed0 --eps 0.2
    python -m experiments.evaluate --pretrained mnist_small_pgd_linf_0.3 --pretrained-dir weights \
        --dataset mnist --eps 0.3 --attacks autoattack,beta --limit 1000
    python -m experiments.evaluate --torch-checkpoint net.pt --architecture wide_resnet_34_10 \
        --dataset cifar10 --eps 8/255
    python -m experiments.evaluate --checkpoint RUN --threat l2 --eps 1 --attacks pgd \
        --curve 0.25,0.5,1,1.5 --curve-attack ddn --grid 8

By default each attack sees the images that those before it left standing, so that the last accuracy
is that of their union, at the least cost; `--individually` runs each on all images. Every batch is
saved when it ends: run the same command again after an interruption, or with further attacks.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
from rich.console import Console

from jaxrobust import checks, evaluation, figures
from jaxrobust.evaluation import Flag, Report, attack_flags, audit
from jaxrobust.files import write_text_atomic

from ..common.attack_menu import MENU, listed, make_attacks, number
from ..common.cli import command_line
from ..common.cpu_devices import one_device_a_core
from .config import Config, default_folder
from .plots import draw_curve, draw_grid


def main(config: Config) -> Report:
    """Evaluates the model; writes report, warnings and figures, and returns the report."""
    one_device_a_core()
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
    trained, dataset = config.subject.load()
    examples = config.subject.examples(dataset)
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
        keep_examples=config.grid > 0 or config.save_examples,
        folder=folder / "batches",
        metadata={
            "data": f"{dataset.label}, {config.subject.split}",
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
        flags = [*flags, *attack_flags(report)]
        publish(folder, report, flags, drawn, examples=config.save_examples)
        Console().print(f"{time.perf_counter() - began:.0f} s on {jax.device_count()} device(s)")
    return report


def publish(
    folder: Path,
    report: Report,
    flags: Sequence[Flag],
    drawn: Mapping[str, figures.Figure | None],
    *,
    examples: bool,
) -> None:
    """Prints the table and the warnings, and writes both, the figures, and perhaps the examples."""
    console = Console()
    report.print()
    for flag in flags:
        told = f"{flag.severity}: {flag.name}: {flag.message}"
        console.print(told, soft_wrap=True, markup=False)
    report.save(folder / "report", examples=examples)
    rows = [flag._asdict() for flag in flags]
    written = [folder / "report.md", write_text_atomic(folder / "flags.json", json.dumps(rows))]
    written += [folder / "report.npz"] if examples else []
    for name, figure in drawn.items():
        if figure is None:
            console.print(f"no image was broken: no {name} drawn")
        else:
            written.append(figures.save_figure(figure, folder / f"{name}.png"))
    for path in written:
        console.print(f"wrote {path}", soft_wrap=True)


if __name__ == "__main__":
    command_line(main, Config, f"{__doc__}\nAttacks: {', '.join(MENU)}.")
