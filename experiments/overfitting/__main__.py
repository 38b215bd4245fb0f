"""Robust overfitting and its remedies: Wong's thesis, sections 4.3 and 4.4.

    python -m experiments.overfitting
    python -m experiments.overfitting --part schedules
    python -m experiments.overfitting --methods pgd early_stopping cutout --cutout 2 4 6
    python -m experiments.overfitting --dataset cifar10 --preset paper --seeds 0
    python -m experiments.overfitting --dataset svhn_cropped --preset paper --learning-rate 0.01

Every row is PGD training with one thing changed; PGD and clean error on test images are measured
after every epoch. Final is the mean of the last five epochs; best the epoch of lowest robust test
error, which nobody can choose without test labels; early stopping chooses by the images held out
of training. Every run resumes from its folder.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import tyro

from experiments.common import curves
from experiments.common.attack_menu import number
from experiments.common.long_runs import images_of, in_norm, split_off
from experiments.common.options import Options, distinct
from experiments.common.probe import probe_of, require_probe, watched
from experiments.common.recipes import Recipe
from experiments.common.runner import (
    Method,
    Outcome,
    command_line,
    judge,
    run_rows,
    setup,
    table_attacks,
)
from experiments.common.tables import publish, summarize, told
from experiments.overfitting import methods as rows
from experiments.overfitting.grids import EARLY, REGULARIZERS, SEMI, Grid, chosen, grid
from experiments.overfitting.methods import SCHEDULES
from experiments.overfitting.published import PUBLISHED
from experiments.overfitting.semi_supervised import with_pseudo_labels
from experiments.overfitting.tables import table_of
from jaxrobust import checks, figures
from jaxrobust.data import Dataset, Split


@dataclasses.dataclass(frozen=True)
class Config:
    """Trains past the best epoch and prints final and best test errors of every row."""

    options: tyro.conf.OmitArgPrefixes[Options] = dataclasses.field(default_factory=Options)
    part: Literal["regularizers", "schedules", "widths", "radii", "sizes"] = "regularizers"
    """regularizers: Table 4.13. schedules: Figure 4.8. widths: Figure 4.22. sizes: of the data."""
    methods: tuple[str, ...] | None = None
    """Of pgd, early_stopping, l1, l2, cutout, mixup, semi_supervised, fgsm_rs, trades (default: all
    but the last two, semi_supervised where images are unlabeled); the first part's."""
    grid: tyro.conf.OmitArgPrefixes[Grid] = dataclasses.field(default_factory=Grid)
    schedules: tuple[str, ...] = tuple(SCHEDULES)
    widths: tuple[int, ...] = (1, 2, 4)
    """Of wong_wide on gray images, of WRN-28 on color ones; --model has no say there."""
    radii: tuple[str, ...] | None = None
    """Such as 8/255 (default: half, once and twice the preset's)."""
    sizes: tuple[int, ...] | None = None
    """Training images (default: a quarter, half and all of the preset's)."""
    images: int | None = None
    """Train on the first so many images (default: the preset's); the others are unlabeled."""
    unlabeled: int | None = None
    """Use at most so many unlabeled images."""
    probe_images: int | None = 1000
    """At most so many images trained on, and of the test split, are attacked after every epoch."""
    norm: Literal["linf", "l2"] = "linf"
    attack_mode: Literal["eval", "train"] | None = None
    """Batch statistics inside training attacks: running, or those of the batch."""


class Part(NamedTuple):
    """What a part of the study trains and shows."""

    methods: list[Method]
    shown: Mapping[str, tuple[str, bool]]
    """Row of the table -> (method whose runs it shows, whether they are stopped early)."""


def plain(methods: list[Method]) -> Part:
    """A part whose table shows every method once."""
    return Part(methods, {method.name: (method.name, False) for method in methods})


def regularizers(
    config: Config, settings: Recipe, dataset: Dataset, pool: Split, label: Callable[[], Dataset]
) -> Part:
    """The rows of Table 4.13. `label` trains for pseudo-labels: called once all else is made."""
    names = chosen(config.methods, pool.size)
    tried = grid(config.grid, config.options.preset, dataset)
    made = {n: REGULARIZERS[n](settings, dataset, tried) for n in names if n in REGULARIZERS}
    if EARLY in names:
        made.setdefault("pgd", REGULARIZERS["pgd"](settings, dataset, tried))
    if SEMI in names:
        made[SEMI] = [Method(SEMI, rows.by_pgd(settings, dataset), dataset=label())]
    shown: dict[str, tuple[str, bool]] = {}
    for name in names:
        if name == EARLY:
            shown[EARLY] = ("pgd", True)
        else:
            shown |= {method.name: (method.name, False) for method in made[name]}
    return Part([method for family in made.values() for method in family], shown)


def part_of(
    config: Config, settings: Recipe, dataset: Dataset, pool: Split, label: Callable[[], Dataset]
) -> Part:
    """The rows of the part asked for.

    Raises:
      ValueError: an unknown name, an impossible number, or a value given twice.
    """
    defense = rows.by_pgd(settings, dataset)
    if config.part == "regularizers":
        return regularizers(config, settings, dataset, pool, label)
    if config.part == "schedules":
        return plain(rows.schedules(config.schedules, settings, defense))
    if config.part == "widths":
        return plain(rows.widths(config.widths, dataset, defense))
    if config.part == "radii":
        usual = [settings.epsilon * share for share in (0.5, 1.0, 2.0)]
        radii = usual if config.radii is None else [number(t, "radii") for t in config.radii]
        return plain(rows.radii(radii, settings, dataset))
    count = dataset.train.size
    return plain(rows.sizes(config.sizes or (count // 4, count // 2, count), dataset, defense))


def check(config: Config) -> None:
    """Raises ValueError for lists that hold a value twice or none, and impossible numbers."""
    lists = {name: getattr(config, name) for name in ("methods", "schedules", "widths", "radii")}
    lists |= {"sizes": config.sizes, **dataclasses.asdict(config.grid)}
    for name, values in lists.items():
        if values is not None:
            distinct(name, values)
            if not values:
                raise ValueError(f"nothing to run: --{name} is empty")
    require_probe(config.probe_images)
    if config.unlabeled is not None:
        checks.at_least("unlabeled", config.unlabeled, 0)


def trained(
    methods: Sequence[Method],
    settings: Recipe,
    dataset: Dataset,
    *,
    config: Config,
    folder: Path,
) -> list[Outcome]:
    """Every row from every seed, each probed and judged in its own ball."""
    outcomes = []
    for method in rows.reflected(methods, settings):
        own = method.recipe(settings)
        columns = {name: a for name, a in table_attacks(own).items() if name != "FGSM"}
        outcomes += run_rows(
            [method],
            settings,
            dataset,
            judge=judge(own, columns=columns, selects=("last", "best")),
            probe=probe_of(own, watched(method.dataset or dataset, config.probe_images)),
            **config.options.runs(folder, probe_images=config.probe_images),
        )
    return outcomes


def main(config: Config) -> list[dict]:
    """Runs a part of the study; returns the rows of its table of errors."""
    began = time.perf_counter()
    options = config.options
    check(config)
    settings = options.recipe(in_norm(config.norm), attack_mode=config.attack_mode)
    dataset, rest = split_off(options.load(settings), images_of(options, config.images))
    pool = Split(*(part[: config.unlabeled] for part in rest))
    folder = options.folder("overfitting") / config.norm

    def label() -> Dataset:
        return with_pseudo_labels(
            dataset,
            pool,
            settings,
            **options.runs(folder, probe_images=config.probe_images) | {"seeds": options.seeds[:1]},
        )

    part = part_of(config, settings, dataset, pool, label)
    outcomes = trained(part.methods, settings, dataset, config=config, folder=folder)
    published = PUBLISHED.get((options.dataset, config.norm), {})
    table = table_of(part.shown, outcomes, published)
    if jax.process_index() != 0:
        return table

    title = setup(settings, dataset, options.seeds, part.methods)
    about = options.about("overfitting", "Wong's thesis, sections 4.3 and 4.4")
    publish(folder / config.part, f"test errors; {title}", table, about=about)
    name = f"{config.part}_checkpoints"
    publish(
        folder / name,
        f"accuracies of the last epoch, and of the best on the images held out; {title}",
        summarize(outcomes),
        about=about,
    )
    # The rows of schedules do not share their decays.
    marks = () if config.part == "schedules" else curves.decays(settings)
    drawn = {
        f"{config.part}_curves": curves.learning_curves(outcomes, marks=marks),
        f"{config.part}_robust": curves.robust_errors(outcomes, marks=marks),
    }
    for family, figure in curves.hyperparameters(table).items():
        drawn[f"{config.part}_{family}"] = figure
    written = [figures.save_figure(f, folder / f"{n}.png") for n, f in drawn.items()]
    told([folder / f"{config.part}.md", folder / f"{name}.md", *written], began)
    return table


if __name__ == "__main__":
    command_line(main, Config, __doc__)
