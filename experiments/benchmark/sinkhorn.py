"""Transport: projections, distances and the attack, beside PyTorch, POT and OTT-JAX."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Annotated, Any

import jax
import numpy as np
import tyro
from rich.console import Console

from jaxrobust import checks, sinkhorn

from ..common.tables import publish
from . import distances, options, peers, projections, wasserstein
from .options import Run
from .projections import Ball, Case
from .subject import Subject
from .timing import Timing, fastest, measure, notes, table

JOBS = ("projection", "distance", "attack")
SUMMARY = (
    "ratio: seconds of the fastest peer / ours, of projections and distances among the peers that "
    "are as accurate on their worst image"
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Times the projection onto Wasserstein balls, transport distances and the attack.

    Every job's table is written when its timing is done; a summary closes the run. Needs an idle
    machine, as the attack benchmark does.
    """

    jobs: tuple[str, ...] = JOBS
    """Any of projection, distance, attack."""
    images: int = 100
    """Test images, all of which are projected."""
    pairs: int = 10
    """Images among them whose distance to their projection is computed."""
    attacked: int = 10
    """Images among them that both sides attack. Ours also attacks all."""
    radius: float = 0.5
    """Radius of the balls, in pixel widths for all of an image's mass."""
    lam: float = 1000.0
    """Weight of the distance to the target against the plan's entropy."""
    window: int = 5
    """Side of the window that mass moves in."""
    step_size: float = 0.1
    """Distance by which each pixel moves along the sign of the loss's gradient before it is
    projected."""
    tolerance: float = 1e-4
    """Tolerance of our solver in the projection job."""
    tolerances: tuple[float, ...] = (1e-2, 1e-3, 3e-4, 1e-4, 3e-5)
    """Tolerances of the PyTorch iteration there; the fastest that is as accurate as ours counts."""
    steps: int = 200
    """Steps of the attack, whose radius grows from .3 by 1.1 every 10 steps."""
    run: Annotated[Run, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Run)


def main(config: Config) -> list[dict[str, Any]]:
    """Runs the benchmark; returns the summary's rows.

    Raises:
      ValueError: an unknown or repeated job, a number out of range, more pairs or attacked images
        than images, images with colors, or what `subject.load` and `twin` raise.
    """
    check(config)
    before = options.load()
    target = config.run.subject(config.images)
    if target.x.shape[-1] != 1:
        raise ValueError(
            f"{config.run.dataset} has colors; the PyTorch projection takes gray images"
        )
    device = None
    if peers.installed("torch"):
        device = "cpu" if jax.default_backend() == "cpu" else "cuda"
    ball = Ball(config.radius, config.lam, sinkhorn.window(config.window))

    @functools.cache
    def case() -> Case:
        return projections.case(target, ball, config.step_size)

    def some() -> distances.Pairs:
        count = slice(config.pairs)
        return distances.pairs(case().x[count], case().truth[count], ball.cost)

    jobs = {
        "projection": lambda: projections.entrants(
            case(), ball, tolerance=config.tolerance, peers=config.tolerances, device=device
        ),
        "distance": lambda: distances.entrants(some()),
        "attack": lambda: wasserstein.entrants(
            target,
            ball,
            count=config.attacked,
            step_size=config.step_size,
            steps=config.steps,
            device=device,
        ),
    }
    about = describe(config, target, device) + before
    folder = config.run.out / f"sinkhorn-{config.run.dataset}-{config.images}"
    summary = []
    for job in config.jobs:
        sides, skipped = jobs[job]()
        timings, failed = measure(sides, config.run.repeats)
        timings = accurate(timings)
        remarks = notes(timings, [*skipped, *failed])
        heading = f"{job}; {about}" + (f". {remarks}" if remarks else "")
        publish(folder / job, heading, [rated(row) for row in table(timings, hide=("backwards",))])
        summary.append(summarize(job, timings))
    publish(folder / "summary", f"{SUMMARY}; {about}", summary)
    Console().print(f"wrote {folder}", soft_wrap=True)
    return summary


def check(config: Config) -> None:
    """Raises ValueError for options that make no sense."""
    options.once_each("job", config.jobs, JOBS)
    for name in ("images", "pairs", "attacked", "steps"):
        checks.at_least(name, getattr(config, name), 1)
    for name in ("pairs", "attacked"):
        if getattr(config, name) > config.images:
            raise ValueError(
                f"--{name} {getattr(config, name)} is more than --images {config.images}"
            )
    for name in ("radius", "lam", "step_size", "tolerance"):
        checks.positive(name, getattr(config, name))
    checks.positive("tolerances", np.asarray(config.tolerances))


def describe(config: Config, target: Subject, device: str | None) -> str:
    """What was timed, on what, with what: for the titles."""
    return (
        f"{target.label}, pixels moved by {config.step_size:g}, "
        f"projected at radius {config.radius:g} "
        f"(attack: from {wasserstein.RADIUS:g} in {config.steps} steps), "
        f"lam {config.lam:g}, {config.window} x {config.window} windows, our tolerance "
        f"{config.tolerance:g}, {config.run.conditions(torch=device is not None)}"
    )


def accurate(timings: Sequence[Timing]) -> list[Timing]:
    """The timings, those whose worst error exceeds ours taken out of the ratio."""
    most = timings[0].figures.get("error ppm")

    def marked(t: Timing) -> Timing:
        if most is None or t.figures["error ppm"] <= most:
            return t
        return t._replace(entrant=t.entrant._replace(same=False))

    return [timings[0], *map(marked, timings[1:])]


def rated(row: dict[str, Any]) -> dict[str, Any]:
    """A row of a table, with images a second where it says how many images there are."""
    return row | {"images / s": row["images"] / row["seconds"]} if "images" in row else row


def summarize(job: str, timings: Sequence[Timing]) -> dict[str, Any]:
    """One job in a row: ours, and the fastest peer that is as accurate."""
    mine, rival = timings[0], fastest(timings)
    return {
        "method": job,
        "ours s": mine.median,
        "peer s": rival and rival.median,
        "ratio": rival and rival.median / mine.median,
        "error ppm": mine.figures.get("error ppm"),
        "peer ppm": rival and rival.figures.get("error ppm"),
        "peer": rival and rival.entrant.name,
    }
