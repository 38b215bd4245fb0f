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
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common.options import distinct
from experiments.common.runner import Outcome, command_line
from experiments.common.tables import publish, summarize, told
from experiments.imagenet.judging import evaluate_stream
from experiments.imagenet.made_up import NAME, made_up
from experiments.imagenet.recipes import MEAN, PRESETS, STD, Setting, checked, row_name, with_phases
from jaxrobust import figures, training
from jaxrobust.data import Stream, open_stream
from jaxrobust.models import build, from_linen
from jaxrobust.types import Model

COLUMNS = "clean / PGD+1 / PGD+10"
SHOWN = 8
"""Images of each phase in the figure."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Trains ResNet-50 on streamed images and prints clean and PGD accuracy, and the time taken."""

    preset: Literal["made-up", "imagenet"] = "made-up"
    """made-up: a small set written here. imagenet: the thesis' settings."""
    radii: tuple[float, ...] | None = None
    """Of the linf ball, in 255ths; a row each (default: the preset's)."""
    seeds: tuple[int, ...] = (0,)
    """A run of every row from each."""
    out: Path = Path("runs/imagenet")
    """Folder of the results; the made-up set too is written there."""
    data_dir: Path | None = None
    """Folder of prepared TFDS sets (default: the environment variable TFDS_DATA_DIR)."""
    limit: int | None = None
    """Train on at most so many images (made-up: write so many)."""
    test_limit: int | None = None
    """Test on at most so many images (made-up: write so many)."""
    threads: int = 8
    """That read, decode and cut images (0: none beside the training)."""
    epochs: tuple[int, ...] | None = None
    """Of each phase."""
    sizes: tuple[int, ...] | None = None
    """Of images in each phase, in pixels."""
    batch_sizes: tuple[int, ...] | None = None
    """Of each phase."""
    eval_size: int | None = None
    """Of test images, in pixels."""
    eval_batch: int | None = None
    """Test images attacked at a time."""
    steps: int | None = None
    """Of the evaluation's PGD."""
    restarts: int | None = None
    """Of the evaluation's PGD, the first run included."""
    attack_mode: Literal["train", "eval"] | None = None
    """Batch statistics inside the training attack: the batch's (released code), or running ones."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    progress: bool = True


def setting_of(config: Config) -> Setting:
    """The preset's setting with the options that are given.

    Raises:
      ValueError: a number that is impossible, given twice or not given for each phase.
    """
    preset = PRESETS[config.preset]
    names = ("radii", "eval_size", "eval_batch", "steps", "restarts", "attack_mode", "dtype")
    given = {name: getattr(config, name) for name in names if getattr(config, name) is not None}
    phases = with_phases(
        preset.phases,
        epochs=config.epochs,
        sizes=config.sizes,
        batch_sizes=config.batch_sizes,
    )
    setting = checked(dataclasses.replace(preset, phases=phases, **given))
    distinct("radii", setting.radii)
    distinct("seeds", config.seeds)
    if not config.seeds:
        raise ValueError("nothing to run: give at least one of --seeds")
    return setting


def load(config: Config, setting: Setting) -> Stream:
    """The preset's images, none of them read yet."""
    options = {"test_split": setting.test_split, "threads": config.threads}
    if config.preset == "made-up":
        train = 256 if config.limit is None else config.limit
        test = 64 if config.test_limit is None else config.test_limit
        return open_stream(
            NAME, data_dir=made_up(config.out / NAME, train=train, test=test), **options
        )
    options |= {"limit": config.limit, "test_limit": config.test_limit}
    return open_stream(setting.dataset, data_dir=config.data_dir, **options)


def network(setting: Setting, stream: Stream) -> Model:
    """ResNet-50, as narrow and as short as the setting says."""
    options = {"mean": MEAN, "std": STD, "dtype": jnp.dtype(setting.dtype), **setting.network}
    model = from_linen(build("resnet50", stream.num_classes, **options))
    # Compiled, the initialization leaves out the forward pass that it shows the shapes by.
    return model._replace(init=jax.jit(model.init))


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


def phase_rows(setting: Setting, outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Time by row and phase, as in Table 4.8: means over seeds; rates leave compiling out."""
    rows = []
    for method in dict.fromkeys(outcome.method for outcome in outcomes):
        first = 0
        for number, phase in enumerate(setting.phases):
            last = first + phase.epochs
            epochs = [r for o in outcomes if o.method == method for r in o.history[first:last]]
            seconds = [row["seconds"] for row in epochs]
            row = {
                "method": method,
                "phase": number + 1,
                "pixels": phase.size,
                "batch size": phase.batch_size,
                "epochs": phase.epochs,
                "seconds": float(np.mean(seconds)) * phase.epochs,
                "images/s": float(np.mean([r["images_per_second"] for r in epochs])),
            }
            if setting.published_minutes:
                row["min/epoch"] = float(np.mean(seconds)) / 60
                row["published min/epoch"] = f"{setting.published_minutes[number]:g}"
            rows.append(row)
            first = last
    return rows


def phases_figure(setting: Setting, stream: Stream, seed: int) -> figures.Figure:
    """Training images as each phase sees them first: random parts, mirrored or not."""
    pictures, titles, first = [], [], 0
    for phase in setting.phases:
        batch = next(stream.batches(seed, first, size=phase.size, batch_size=phase.batch_size))
        shown = min(SHOWN, *(p.batch_size for p in setting.phases))
        pictures.append(batch.x[:shown].astype(np.float32) / 255)
        titles.append([f"class {label}" for label in batch.y[:shown]])
        first += phase.epochs
    names = [f"{phase.size} x {phase.size}" for phase in setting.phases]
    return figures.picture_grid(pictures, titles=titles, rows=names)


def described(config: Config, setting: Setting, stream: Stream) -> str:
    """What the figures were measured on."""
    phases = ", ".join(f"{p.epochs} at {p.size} px" for p in setting.phases)
    options = "".join(f", {name} {value}" for name, value in setting.network.items())
    return (
        f"{stream.label}: resnet50{options}, {setting.dtype}, epochs {phases}, {stream.images} "
        f"training and {len(stream.test)} test images at {setting.eval_size} px, PGD"
        f"{setting.steps} step {setting.step_size:g}/255 with 1 and {setting.restarts} restarts, "
        f"seeds {' '.join(map(str, config.seeds))}; mean ± standard deviation, %"
    )


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
