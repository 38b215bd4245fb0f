"""The study's tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxrobust import checks, defenses, figures

from ..common.defense_menu import make_methods
from ..common.options import distinct
from ..common.rows import Judge, Method
from ..common.runner import judge, run_rows, setup
from ..common.tables import summarize
from . import plane, theorem
from .config import Config
from .methods import FAST, WHITE_BOX, binary_row, iterated, trades_row, white_box
from .recipes import (
    COLUMNS,
    LAMBDAS,
    PUBLISHED,
    PUBLISHED_BLACK_BOX,
    PUBLISHED_SENSITIVITY,
    SENSITIVITY,
    TABLE,
    THEOREM,
    WEIGHTS,
)
from .transfers import transfers

TRADES = (1.0, 6.0)
"""1 / lambda of the rows of Tables 5 to 10."""


class Sheet(NamedTuple):
    """A table, with where it comes from."""

    title: str
    source: str
    rows: list[dict[str, Any]]
    figure: figures.Figure | None = None


Job = Callable[[Path], Mapping[str, Sheet]]
"""Trains and evaluates into a folder; tables by name."""


def models(config: Config, parts: tuple[str, ...]) -> Job:
    """The white-box and the black-box table: the same models, told by their parts."""
    options = config.options
    settings = options.recipe(TABLE)
    default = FAST if options.preset == "quick" else tuple(WHITE_BOX)
    names = default if config.attacks is None else config.attacks
    judged = judge(settings, columns=white_box(names, settings, more_steps=config.more_steps))

    def work(folder: Path) -> dict[str, Sheet]:
        dataset = options.load(settings)
        rows = make_methods(("erm", "pgd"), settings, dataset)
        rows += [trades_row(settings, weight) for weight in TRADES]
        outcomes = run_rows(
            rows,
            settings,
            dataset,
            judge=judged,
            **options.runs(folder / "models"),
        )
        title = setup(settings, dataset, options.seeds)
        sheets = {}
        if "table" in parts:
            found = summarize(outcomes, PUBLISHED.get(options.name), columns=COLUMNS)
            sheets["table"] = Sheet(title, "TRADES, Tables 5 and 8", found)
        if "black-box" in parts:
            found = transfers(
                outcomes,
                settings,
                dataset,
                PUBLISHED_BLACK_BOX.get(options.name),
                folder=folder / "black_box",
                progress=options.progress,
            )
            title = f"{title}; points of the model in parentheses; losses: mean cross-entropy"
            sheets["black_box"] = Sheet(title, "TRADES, Tables 6, 7, 9 and 10", found)
        return sheets

    return work


def sensitivity(config: Config) -> Job:
    """Table 4: natural and robust accuracy along 1 / lambda."""
    options = config.options
    settings = options.recipe(SENSITIVITY)
    weights = WEIGHTS[options.preset] if config.weights is None else config.weights
    _some("weights", weights)
    rows = [trades_row(settings, weight) for weight in weights]
    column = f"FGSM{settings.eval_steps}"
    judged = Judge({column: iterated(settings, settings.eval_steps)})

    def work(folder: Path) -> dict[str, Sheet]:
        dataset = options.load(settings)
        outcomes = run_rows(
            rows,
            settings,
            dataset,
            judge=judged,
            **options.runs(folder / "sensitivity"),
        )
        points = {}
        for row in rows:
            runs = [o.accuracies for o in outcomes if o.method == row.name]
            point = tuple(np.asarray([run[name] for run in runs]) for name in ("Clean", column))
            points[row.name.removeprefix("trades 1/lambda=")] = point
        found = summarize(
            outcomes, PUBLISHED_SENSITIVITY.get(options.name), columns="clean / FGSM^k"
        )
        figure = figures.trade_off(
            {"TRADES, over 1 / lambda": points},
            x="natural accuracy (%)",
            y="robust accuracy (%)",
        )
        title = setup(settings, dataset, options.seeds)
        return {"sensitivity": Sheet(title, "TRADES, Table 4", found, figure)}

    return work


def bound(config: Config) -> Job:
    """Table 3: both sides of theorem 3.1 on a binary task."""
    options = config.options
    settings = options.recipe(THEOREM)
    lambdas = LAMBDAS[options.preset] if config.lambdas is None else config.lambdas
    _some("lambdas", lambdas)
    rows = [Method(theorem.NATURAL, defenses.erm())]
    rows += [binary_row(settings, lam) for lam in lambdas]

    def work(folder: Path) -> dict[str, Sheet]:
        dataset = theorem.binary(options.load(settings))
        outcomes = run_rows(
            rows,
            settings,
            dataset,
            judge=Judge({}),
            **options.runs(folder / "theorem", classes=theorem.CLASSES),
        )
        published = options.name == "mnist"
        found = theorem.table_3(outcomes, settings, dataset, lambdas, published=published)
        title = setup(settings, dataset, options.seeds)
        title = f"{title} (A_nat and A_rob; the others are shares and means)"
        return {"theorem": Sheet(title, "TRADES, Table 3", found)}

    return work


def figure_1(config: Config) -> Job:
    """Figure 1: boundaries in the plane, from the first seed."""
    seed = config.options.seeds[0]

    def work(folder: Path) -> dict[str, Sheet]:
        dataset = plane.points(seed)
        found = plane.learned(folder / "plane", seed, dataset)
        title = (
            f"{dataset.train.size} points of the plane, linf eps {plane.RADIUS:g}, "
            f"{plane.EPOCHS} epochs, seed {seed}; errors on them in %"
        )
        figure = plane.drawn(found, dataset)
        return {"plane": Sheet(title, "TRADES, Figure 1", plane.rows(found), figure)}

    return work


def jobs(config: Config) -> list[Job]:
    """What to run, every option checked.

    Raises:
      ValueError: a part, or an option of one of the parts, that cannot be run.
    """
    options = config.options
    parts = config.part
    if parts is None:
        parts = ("table", "sensitivity", "black-box")
        parts += ("theorem",) if (options.name, options.preset) in THEOREM else ()
    _some("part", parts)
    for part in parts:
        checks.choice("part", part, ("table", "sensitivity", "black-box", "theorem", "plane"))
    made = [models(config, parts)] if {"table", "black-box"} & set(parts) else []
    made += [sensitivity(config)] if "sensitivity" in parts else []
    made += [bound(config)] if "theorem" in parts else []
    return made + ([figure_1(config)] if "plane" in parts else [])


def _some(name: str, values: tuple[Any, ...]) -> None:
    distinct(name, values)
    if not values:
        raise ValueError(f"nothing to run: --{name} is empty")
