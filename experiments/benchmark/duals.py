"""Certified margins of one network: this library's duals beside the same bound in PyTorch."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console

from jaxrobust import checks, duals
from jaxrobust.evaluation import accuracy
from jaxrobust.threats import Linf
from jaxrobust.types import Array, PyTree

from ..common.tables import publish
from . import options, peers, torch_duals, torch_sinkhorn
from .options import Run
from .projections import PPM
from .subject import Subject
from .timing import Entrant, Skipped, Timing, fastest, measure, notes, table
from .twin import channels_first, twin

SUMMARY = "ratio: the fastest PyTorch side / ours, at the first batch size"
RELEASED = ("wong_kolter",)
LIRPA = Skipped("auto_LiRPA", "its only release on PyPI, 0.3, does not import with numpy 2")


@dataclasses.dataclass(frozen=True)
class Config:
    """Times bounds of all margins over linf balls, beside the same bound in PyTorch.

    Needs an idle machine, as the attack benchmark does.
    """

    images: int = 50
    """Test images certified."""
    epsilon: float = 0.1
    """Radius of the balls."""
    batches: tuple[int, ...] = (10, 1, 50)
    """Images at a time; the ratio is about the first."""
    torch_batches: tuple[int, ...] = (10, 1)
    """Batch sizes of PyTorch, whose fastest counts: a row for every unit takes 20 MB an image."""
    rows: int = 100
    """Rows that ours pulls back at a time, over all images of a batch: what caches hold."""
    run: Annotated[Run, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Run)


def main(config: Config) -> list[dict[str, Any]]:
    """Runs the benchmark; returns the summary's rows.

    Raises:
      ValueError: numbers out of range, images that do not fill whole batches, or what
        `subject.load` and `twin` raise.
    """
    check(config)
    before = options.load()
    target = config.run.subject(config.images)
    sides, skipped = entrants(config, target)
    about = (
        f"{target.label}, all margins over linf balls of {config.epsilon:g}, "
        f"ours {config.rows} rows at a time, "
        f"{config.run.conditions(torch=peers.installed('torch'))}{before}"
    )
    timings, failed = measure(sides, config.run.repeats)
    remarks = notes(timings, [*skipped, *failed])
    folder = config.run.out / f"duals-{config.run.dataset}-{config.images}"
    publish(folder / "margins", f"{about}. {remarks}", [rated(row) for row in table(timings)])
    summary = [summarize(timings)]
    publish(folder / "summary", f"{SUMMARY}; {about}", summary)
    Console().print(f"wrote {folder}", soft_wrap=True)
    return summary


def check(config: Config) -> None:
    """Raises ValueError for options that make no sense."""
    for name in ("images", "rows"):
        checks.at_least(name, getattr(config, name), 1)
    checks.positive("epsilon", config.epsilon)
    for name in ("batches", "torch_batches"):
        sizes = getattr(config, name)
        if not sizes:
            raise ValueError(f"--{name.replace('_', '-')} must name at least one batch size")
        for size in sizes:
            checks.at_least(name, size, 1)
            options.whole_batches(config.images, size)


def entrants(config: Config, target: Subject) -> tuple[list[Entrant], list[Skipped]]:
    """Ours at every batch size and with the best of all methods, and PyTorch's."""
    first = config.batches[0]
    programs = [(f"jaxrobust, batch {size}", size, RELEASED) for size in config.batches]
    programs.append((f"jaxrobust, best of {len(duals.METHODS)}", first, duals.METHODS))
    sides = [ours(config, target, *program) for program in programs]
    sides[1:] = [side._replace(same=False) for side in sides[1:]]
    skipped = [LIRPA]
    if peers.installed("torch"):
        device = "cpu" if jax.default_backend() == "cpu" else "cuda"
        sides += [s for size in config.torch_batches for s in theirs(config, target, size, device)]
    else:
        skipped.append(torch_sinkhorn.ABSENT)
    truth = functools.cache(sides[0].run)
    return [judged(side, target, truth) for side in sides], skipped


def ours(config: Config, target: Subject, name: str, batch: int, methods: Sequence[str]) -> Entrant:
    """This library's margins, compiled for `batch` images at a time."""

    def program(variables: PyTree, epsilon: Array, x: Array, y: Array) -> Array:
        f, chunk = target.model.logits_fn(variables), max(1, config.rows // batch)

        def one(x: Array, y: Array) -> Array:
            return duals.margin_bounds(f, x, y, Linf(epsilon), methods=methods, chunk=chunk)

        return jax.vmap(one)(x, y)

    rows = (jnp.asarray(target.x), jnp.asarray(target.y))
    batches = list(zip(*(jnp.split(a, len(a) // batch) for a in rows), strict=True))
    known = (target.variables, jnp.float32(config.epsilon))

    @functools.cache
    def compiled() -> jax.stages.Compiled:
        return jax.jit(program).lower(*known, *batches[0]).compile()

    def run() -> np.ndarray:
        return np.concatenate(jax.block_until_ready([compiled()(*known, *b) for b in batches]))

    def figures(_: np.ndarray) -> dict[str, float | None]:
        memory = {"MB / image": compiled().memory_analysis().temp_size_in_bytes / batch / 1e6}
        # other methods are not to agree
        return memory if methods == RELEASED else {"difference ppm": None, **memory}

    return Entrant(name, run, figures)


def theirs(config: Config, target: Subject, batch: int, device: str) -> list[Entrant]:
    """PyTorch's margins, `batch` images at a time, on all cores and on one."""
    import torch

    bounds = torch_duals.margins(twin(target, device), config.epsilon)
    x = channels_first(target.x, device).split(batch)
    y = torch.from_numpy(target.y.astype(np.int64)).to(device).split(batch)

    def run() -> np.ndarray:
        return torch.cat([bounds(a, b).cpu() for a, b in zip(x, y, strict=True)]).numpy()

    return [
        Entrant(f"PyTorch ({threads}), batch {batch}", team, lambda _: {"MB / image": None})
        for threads, team in torch_sinkhorn.teams(run, device).items()
    ]


def judged(side: Entrant, target: Subject, truth: Callable[[], np.ndarray]) -> Entrant:
    """The side, with what its margins prove and how far they are from `truth`."""

    def figures(margins: np.ndarray) -> dict[str, float | None]:
        own = np.arange(target.classes) == target.y[:, None]
        return {
            "images": len(margins),
            "certified %": accuracy(np.all((margins > 0) | own, axis=1)),
            "difference ppm": PPM * float(np.max(np.abs(margins - truth()))),
            **side.figures(margins),
        }

    return side._replace(figures=figures)


def rated(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the table, with milliseconds an image."""
    return row | {"ms / image": 1e3 * row["seconds"] / row["images"]}


def summarize(timings: Sequence[Timing]) -> dict[str, Any]:
    """Ours at the first batch size, and the fastest PyTorch side."""
    mine, rival = timings[0], fastest(timings)
    return {
        "method": "margins",
        "ours s": mine.median,
        "peer s": rival and rival.median,
        "ratio": rival and rival.median / mine.median,
        "certified %": mine.figures["certified %"],
        "difference ppm": rival and rival.figures["difference ppm"],
        "peer": rival and rival.entrant.name,
    }
