"""The parts of the study: each trains its rows, prints its table and draws its figure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxrobust import figures
from jaxrobust.files import write_csv
from jaxrobust.threats import Linf

from ..common.defense_menu import REPLAYS
from ..common.rows import BEST_BY, Outcome
from ..common.runner import judged_network
from ..common.tables import averaged, collapses, summarize
from . import methods, plots
from .perturbations import add_edges, histogram
from .recipes import STARTS, TABLE, TIMES, VERIFIED
from .run import Rows, Run, timed
from .verified import Question, verify


def grouped(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    """The runs of each method."""
    names = dict.fromkeys(outcome.method for outcome in outcomes)
    return {name: [o for o in outcomes if o.method == name] for name in names}


def table(run: Run) -> tuple[Rows, list[Path]]:
    """Table 4.1, Figures 4.2 and 4.3."""
    made = methods.table_rows(run.chosen, run.settings, run.dataset)
    outcomes = run.train([method for method in made if run.wants(method.name)])
    published = TABLE.get(run.options.name)
    found = summarize(outcomes, published, columns="clean / PGD-50-10 / minutes")
    for row, own in zip(found, grouped(outcomes).values(), strict=True):
        row |= timed(own, run.settings.batch_size) | {
            "collapsed": collapses(own, drop=run.chosen.drop)
        }
    if jax.process_index() != 0:
        return found, []
    moves = add_edges(found, grouped(outcomes), run.settings, run.dataset)
    title = run.title("stopped: the best epoch on images held out")
    written = [run.publish("table", title, found, "Table 4.1")]
    epochs = plots.epoch_rows(outcomes)
    write_csv(run.folder / "epochs.csv", epochs)
    written.append(run.draw("epochs", plots.epochs_figure(epochs)))
    shown = [name for name in ("zero", "uniform 1.25 eps") if run.wants(name)]
    if shown:
        picture = histogram({name: moves[name] for name in shown})
        written.append(run.draw("figure3_perturbations", picture))
        overfitting = plots.overfitting_figure(epochs, shown)
        written.append(run.draw("figure2_overfitting", overfitting))
    return found, written


def collapse(run: Run) -> tuple[Rows, list[Path]]:
    """Catastrophic overfitting, and what prevents it, in a small network on few images."""
    chosen = run.chosen
    if not chosen.fragile:
        raise ValueError("the part collapse is of --dataset cifar10 with --preset quick alone")
    few = run.dataset.train.first(chosen.fragile_images)
    run = dataclasses.replace(run, dataset=dataclasses.replace(run.dataset, train=few))
    run = run.changed(**chosen.fragile)
    made = methods.fragile_rows(run.settings, run.dataset)
    outcomes = run.train([method for method in made if run.wants(method.name)])
    found = summarize(outcomes)
    for row, own in zip(found, grouped(outcomes).values(), strict=True):
        best = [max(epoch[BEST_BY] for epoch in o.history) for o in own]
        row["best epoch, held out"] = float(np.mean(best))
        row["collapsed"] = collapses(own, drop=chosen.fragile_drop)
    if jax.process_index() != 0:
        return found, []
    title = run.title(f"collapsed: lost more than {chosen.fragile_drop:g} points held out")
    epochs = plots.epoch_rows(outcomes)
    write_csv(run.folder / "epochs.csv", epochs)
    names = [method.name for method in made if run.wants(method.name)]
    moves = add_edges(found, grouped(outcomes), run.settings, run.dataset)
    return found, [
        run.publish("table", title, found, "section 4.1.2 (catastrophic overfitting)"),
        run.draw("overfitting", plots.overfitting_figure(epochs, names)),
        run.draw("figure3_perturbations", histogram(moves)),
    ]


def start(run: Run) -> tuple[Rows, list[Path]]:
    """Table 4.3."""
    outcomes = run.train([m for m in methods.start_rows(run.settings) if run.wants(m.name)])
    published = STARTS.get(run.options.name)
    found = summarize(outcomes, published, columns="PGD / std")
    for row, own in zip(found, grouped(outcomes).values(), strict=True):
        row["collapsed"] = collapses(own, drop=run.chosen.drop)
    if jax.process_index() != 0:
        return found, []
    return found, [run.publish("table", run.title("start and step"), found, "Table 4.3")]


def verified(run: Run, time_limit: float) -> tuple[Rows, list[Path]]:
    """Table 4.4."""
    run = run.changed(**run.chosen.gentle, **run.chosen.small)
    chosen, settings = run.chosen, run.settings
    small, full = (Linf(share * settings.epsilon) for share in (chosen.verified, 1.0))
    columns = {f"{run.robust} at {t.radius:.3g}": run.pgd(t) for t in (small, full)}
    made = [m for m in methods.verified_rows(settings, run.dataset) if run.wants(m.name)]
    outcomes = run.train(made, columns=columns)
    published = VERIFIED.get(run.options.name)
    found = summarize(outcomes, published, columns="clean / PGD .1 / PGD .3 / verified .1")
    question = Question(small, next(iter(columns)), chosen.exact, time_limit)
    model = judged_network(settings, run.dataset)
    for row, own in zip(found, grouped(outcomes).values(), strict=True):
        figures_of = [
            verify(o, question, model, run.dataset.test, run.folder / f"{o.method}-seed{o.seed}")
            for o in own
        ]
        row |= averaged(figures_of)
    if jax.process_index() != 0:
        return found, []
    title = run.title(
        f"verified at {small.radius:.3g} by integer programs, {time_limit:g} s an image"
    )
    return found, [run.publish("table", title, found, "Table 4.4")]


def race(run: Run) -> tuple[Rows, list[Path]]:
    """Table 4.6 and Figure 4.7."""
    run = run.changed(**run.chosen.gentle)
    made = methods.time_rows(run.chosen, run.settings, run.dataset, run.chosen.budgets)
    entries = [entry for entry in made if run.wants(entry[0])]
    if not entries:
        raise ValueError(
            f"budgets {' '.join(map(str, run.chosen.budgets))} hold no pass of free, which sees "
            f"each batch {REPLAYS} times: give one of at least {REPLAYS}"
        )
    # What a run was before it collapsed is what counts: it is stopped, and judged at its best.
    stop = methods.stop(run.chosen)
    outcomes = run.train([dataclasses.replace(m, stop=stop) for _, _, m in entries])
    found = summarize(outcomes)
    runs = grouped(outcomes)
    for row, (name, budget, method) in zip(found, entries, strict=True):
        seconds = timed(runs[method.name], run.settings.batch_size)
        collapsed = collapses(runs[method.name], drop=run.chosen.drop)
        row |= {"training": name, "budget": budget, **seconds, "collapsed": collapsed}
    if jax.process_index() != 0:
        return found, []
    target = run.chosen.target
    reached = first_to_reach(found, run.robust, target)
    published = TIMES.get(run.options.name)
    if published is not None:
        for row in reached:
            told = " / ".join(f"{figure:g}" for figure in published[row["method"]])
            row["published epochs / s per epoch / min (45 %)"] = told
    source = "Table 4.6 and Figure 4.7"
    title = run.title(
        "each row for as many epochs as its budget, replays counted, ended by a collapse; at its "
        "best epoch on images held out"
    )
    goal = run.title(f"the first budget that reaches {target:g} % under {run.robust}")
    by_method = {
        name: plots.over([r for r in found if r["training"] == name], "training s", run.robust)
        for name in dict.fromkeys(r["training"] for r in found)
    }
    figure = figures.series_lines(
        by_method, x="seconds of training, compiling apart", level=target, logarithmic=True
    )
    return found, [
        run.publish("table", title, found, source),
        run.publish("reached", goal, reached, source),
        run.draw("figure7_time", figure),
    ]


def first_to_reach(
    found: Sequence[Mapping[str, Any]], column: str, target: float
) -> list[dict[str, Any]]:
    """Per training method its cheapest row whose `column` reaches the target, None if none does."""
    reached = []
    for name in dict.fromkeys(row["training"] for row in found):
        own = [r for r in found if r["training"] == name and r[column] >= target]
        first = min(own, key=lambda r: r["training s"], default=None)
        shown = ("budget", "training s", column)
        told = {key: None if first is None else first[key] for key in shown}
        reached.append({"method": name, **told})
    return reached


def steps(run: Run) -> tuple[Rows, list[Path]]:
    """Figures 4.4 and 4.5: the last epoch, and the best one on images held out."""
    entries = methods.step_rows(run.settings, run.chosen.ratios)
    outcomes = run.train([method for _, method in entries], selects=("last", "best"))
    found = summarize(outcomes)
    runs = grouped(outcomes)
    for row, (ratio, method) in zip(found, entries, strict=True):
        row |= {
            "step / eps": ratio,
            "collapsed": collapses(runs[method.name], drop=run.chosen.drop),
        }
    if jax.process_index() != 0:
        return found, []
    names = {"last epoch": f"{run.robust} last", "best epoch, held out": f"{run.robust} best"}
    series = {name: plots.over(found, "step / eps", column) for name, column in names.items()}
    figure = figures.series_lines(series, x="step size (radii)")
    return found, [
        run.publish("table", run.title("by step size"), found, "Figures 4.4 and 4.5"),
        run.draw("figure4_steps", figure),
    ]
