"""The ImageNet recipe of Wong's thesis, section 4.2.3: images that do not fit into memory.

    python -m experiments.imagenet
    python -m experiments.imagenet --radii 2 4 --seeds 0 1 2
    python -m experiments.imagenet --preset imagenet --data-dir tensorflow_datasets --threads 16

FGSM training with a random start in three phases of growing images, in bfloat16, with weight decay
on weights alone; then PGD with restarts on all test images. made-up writes a small set of striped
JPEG images of many sizes and trains a narrow network of two stages in minutes; imagenet is the
thesis' recipe, on a GPU or several, and needs TFDS's imagenet2012, prepared as array_record files.
Batches are read while training runs. Every run resumes at its last epoch and, once trained, at its
last batch attacked: run the same command again after an interruption.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import jax

from jaxrobust import figures, training
from jaxrobust.data import Stream
from jaxrobust.types import Model

from ..common.cli import command_line
from ..common.rows import Outcome
from ..common.tables import publish, summarize, told
from .config import Config, load, network, setting_of
from .judging import evaluate_stream
from .plots import phases_figure
from .recipes import Setting, row_name
from .tables import COLUMNS, described, phase_rows


def run_row(
    radius: float, setting: Setting, stream: Stream, model: Model, config: Config, folder: Path
) -> list[Outcome]:
    """Trains and attacks a row from every seed; its runs share compiled programs."""
    defense, columns = setting.defense(radius), setting.columns(radius)
    optimizer = training.optimizer(
        "sgd",
        training.phase_schedule(setting.phases, stream.images),
        momentum=setting.momentum,
        weight_decay=setting.weight_decay,
        decay_all=False,
    )
    # What the evaluation is like, and what other rows are, does not change a run.
    recipe = {name: getattr(setting, name) for name in ("momentum", "weight_decay", "attack_mode")}
    recipe |= {"model": "resnet50", "model_options": setting.network, "dtype": setting.dtype}
    outcomes = []
    for seed in config.seeds:
        own = folder / f"{row_name(radius).replace(' ', '-').replace('/', '_')}-seed{seed}"
        result = training.fit_stream(
            seed,
            model,
            defense,
            stream,
            optimizer,
            phases=setting.phases,
            run=own,
            config={"dataset": stream.name, "epsilon": radius / 255, "recipe": recipe},
            progress=config.progress,
        )
        judged = f"pgd{setting.steps}x{setting.restarts}-{setting.eval_size}px-{len(stream.test)}"
        judged += f"-batches{setting.eval_batch}"
        report = evaluate_stream(
            jax.random.key(seed),
            model,
            result.state.variables,
            stream,
            columns,
            size=setting.eval_size,
            chunk=setting.chunk,
            batch_size=setting.eval_batch,
            folder=own / judged,
            metadata={
                "data": stream.label,
                "method": row_name(radius),
                "model": "resnet50",
                "seed": seed,
                "epsilon": radius / 255,
            },
            progress=config.progress,
        )
        if jax.process_index() == 0:
            report.save(own / "test_last")
        # The table shows one restart and all of them.
        ends = {n: report.attacks[n] for n in (next(iter(columns)), next(reversed(columns)))}
        shown = dataclasses.replace(report, attacks=ends)
        variables = {"last": result.state.variables}
        outcomes.append(
            Outcome(row_name(radius), seed, {"last": shown}, {}, result.history, variables)
        )
    return outcomes


def main(config: Config) -> list[dict]:
    """Runs the study; returns the rows of its table."""
    began = time.perf_counter()
    setting = setting_of(config)
    stream = load(config, setting)
    folder = config.out / config.preset
    model = network(setting, stream)
    outcomes = [
        outcome
        for radius in setting.radii
        for outcome in run_row(radius, setting, stream, model, config, folder)
    ]
    table = summarize(outcomes, setting.published or None, columns=COLUMNS)
    if jax.process_index() == 0:
        about = {
            "script": "imagenet",
            "dataset": stream.name,
            "preset": config.preset,
            "source": "Wong 4.2.3, Tables 4.7 and 4.8",
        }
        title = described(config, setting, stream)
        publish(folder / "table", title, table, about=about)
        publish(folder / "phases", f"time by phase; {title}", phase_rows(setting, outcomes))
        drawn = phases_figure(setting, stream, config.seeds[0])
        path = figures.save_figure(drawn, folder / "phases.png")
        told([folder / "table.md", folder / "phases.md", path], began)
    return table


if __name__ == "__main__":
    command_line(main, Config, __doc__)
