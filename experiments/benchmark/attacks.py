"""The same attacks on the same network and images: this library against PyTorch ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Annotated, Any

import jax
import tyro
from rich.console import Console

from jaxrobust import checks

from ..common.arithmetic import cores, jax_peak
from ..common.cpu_devices import one_device_a_core
from ..common.recipes import recipe
from ..common.tables import publish
from . import judging, options, peers, twin
from .options import Run
from .peer_attacks import PEERS
from .settings import ATTACKS, MINIMUM_NORM, Settings, judged, ours, title
from .subject import Subject
from .timing import Timing, fastest, measure, notes, table

SUMMARY = (
    "ratio: fastest peer that does the same work / ours; "
    "peak %: share of our seconds that the network's matrix products alone would take"
)

WEAKER = 1.0
"""Percentage points of robust accuracy above the strongest side's up to which sides are equal."""
CHANCE = 4
"""Images of difference that random starts explain: n one-sided flips are 2 deviations at n = 4."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Times attacks against foolbox, torchattacks, ART and the algorithm of AutoAttack's authors.

    That algorithm is written here, in PyTorch. All sides run in one run, each alone.

    Every attack's table is written when its timing is done; a summary closes the run. Needs an
    idle machine: PyTorch's threads wait for one another, and beside other work they lose far more
    than ours. The titles show the load.
    """

    attacks: tuple[str, ...] = ("pgd", "apgd", "ddn", "cw")
    """Any of pgd, apgd, apgdt, ddn, cw, fab, square, autoattack."""
    images: int = 200
    """Test images attacked."""
    batch_size: int = 500
    """Images at a time, on every side."""
    run: Annotated[Run, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Run)
    seed: int = 0
    memory: bool = True
    """Measure peak memory too, by two more calls of every side, which are not timed."""
    settings: Settings = dataclasses.field(default_factory=Settings)
    """Settings of the attacks."""


def main(config: Config) -> list[dict[str, Any]]:
    """Runs the benchmark; returns the summary's rows.

    Raises:
      ValueError: an unknown or repeated attack, images that do not fill whole batches, a PyTorch
        twin whose logits differ or that has no GPU where JAX has, or what `subject.load` raises.
    """
    one_device_a_core()
    batch, before = check(config), options.load()
    settings = config.settings
    if settings.epsilon is None:
        radius = recipe(config.run.dataset, "quick").epsilon
        settings = dataclasses.replace(settings, epsilon=radius)
    target = config.run.subject(config.images)
    peaks, other = {"XLA": jax_peak()}, None
    if peers.installed("torch"):
        other = twin.twin(target, "cpu" if jax.default_backend() == "cpu" else "cuda")
        peaks["PyTorch"] = twin.torch_peak(other)
    about = describe(config, settings, target, batch, peaks) + before
    best = max(peaks.values())

    folder = config.run.out / f"{config.run.dataset}-{config.images}"
    summary = []
    for name in config.attacks:
        called, suite = title(name, settings), ours(name, settings)
        threat = judged(name, settings)
        verdict = judging.judge(target, threat, minimum=name in MINIMUM_NORM)
        mine = judging.ours("jaxrobust", target, suite, verdict, batch=batch, seed=config.seed)
        others, skipped = peers.entrants(
            PEERS[name],
            other,
            target,
            settings,
            verdict,
            batch=batch,
            seed=config.seed,
        )
        timings, failed = measure([mine, *others], config.run.repeats)
        if config.memory:
            timings = [metered(t) for t in timings]
        timings = marked(timings, config.images)
        remarks = notes(timings, [*skipped, *failed])
        heading = f"{called}; {about}" + (f". {remarks}" if remarks else "")
        publish(folder / name, heading, table(timings, hide=("backwards",)))
        summary.append(summarize(called, timings, flops=target.flops * len(target.x), peak=best))
    publish(folder / "summary", f"{SUMMARY}; {about}", summary)
    Console().print(f"wrote {folder}", soft_wrap=True)
    return summary


def check(config: Config) -> int:
    """The batch size that the options give; raises ValueError for those that make no sense."""
    options.once_each("attack", config.attacks, ATTACKS)
    for name in ("images", "batch_size"):
        checks.at_least(name, getattr(config, name), 1)
    batch = min(config.batch_size, config.images)
    options.whole_batches(config.images, batch)
    return batch


def describe(
    config: Config,
    settings: Settings,
    target: Subject,
    batch: int,
    peaks: Mapping[str, float],
) -> str:
    """What was timed, on what, with what: for the titles."""
    rates = ", ".join(f"{name} {rate / 1e9:.0f}" for name, rate in peaks.items())
    return (
        f"{target.label}, linf {settings.epsilon:g}, l2 {settings.epsilon_l2:g}, "
        f"batch {batch}, float32, seed {config.seed}, median of {config.run.repeats} calls, "
        f"{jax.local_device_count()} x {jax.devices()[0].device_kind}, {cores()} threads "
        f"a side, matrix products at {rates} GFLOP/s, jax {jax.__version__}"
        + (f", torch {version('torch')}" if "PyTorch" in peaks else "")
    )


def metered(timing: Timing) -> Timing:
    """The timing with the memory, in MB, that a warm call takes at its peak."""
    used = timing.entrant.meter(timing.entrant.run)
    figures = {**timing.figures, "peak MB": None if used is None else used / 1e6}
    return timing._replace(figures=figures)


def marked(timings: Sequence[Timing], images: int) -> list[Timing]:
    """The timings with a note on every side that breaks clearly fewer images than the strongest."""
    least = min(t.figures["robust %"] for t in timings)

    def mark(t: Timing) -> Timing:
        more = t.figures["robust %"] - least
        if more <= max(WEAKER, 100 * CHANCE / images):
            return t
        note = ", ".join(filter(None, (t.entrant.note, f"weaker by {more:.1f} points")))
        return t._replace(entrant=t.entrant._replace(note=note))

    return [mark(t) for t in timings]


def summarize(
    method: str, timings: Sequence[Timing], *, flops: float, peak: float
) -> dict[str, Any]:
    """One attack in a row: ours, the fastest peer that does the same, and the arithmetic alone.

    "peak %" is the share of our seconds that the network's matrix products would take at `peak`.

    Args:
      flops: of a forward pass over all images; a backward pass counts the same.
      peak: operations a second that this machine reaches on a large matrix product.
    """
    mine, rival = timings[0], fastest(timings)
    passes = mine.figures["forwards"] + mine.figures["backwards"]
    return {
        "method": method,
        "ours s": mine.median,
        "peer s": rival and rival.median,
        "ratio": rival and rival.median / mine.median,
        "robust %": mine.figures["robust %"],
        "peer %": rival and rival.figures["robust %"],
        "peak %": 100 * flops * passes / peak / mine.median,
        "peer": rival and rival.entrant.name,
    }
