"""One pass over a data set: padded batches in, exact per-example results out."""

from __future__ import annotations

import contextlib
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, cast

import jax
import numpy as np
from jax.sharding import Mesh
from rich.progress import Progress

from jaxrobust import checks
from jaxrobust.attacks.batch import Box, in_boxes, per_example
from jaxrobust.data import padded_batches
from jaxrobust.devices import Device
from jaxrobust.evaluation import compiled
from jaxrobust.evaluation.report import Timing
from jaxrobust.models.coercion import ModelLike, as_fixed
from jaxrobust.threats.covering import warn_of_covering
from jaxrobust.types import (
    Array,
    Attack,
    AttackResult,
    FunctionAttack,
    Key,
    LogitsFn,
    Model,
    PyTree,
)

AttackLike = Attack | Callable[[Key, LogitsFn, Array, Array], AttackResult]
Examples = tuple[np.ndarray, np.ndarray]
Tick = Callable[[], None]


def as_attack(attack: AttackLike) -> Attack:
    """An attack itself; a plain function as one."""
    return attack if isinstance(attack, Attack) else FunctionAttack(run=attack)


class Job(NamedTuple):
    """A model and a data set, checked and cut into batches, ready for any number of passes."""

    model: Model
    mesh: Mesh
    variables: PyTree
    x: np.ndarray
    y: np.ndarray
    rows: np.ndarray
    """int32 `[steps, B]`: which examples each batch holds, see `data.padded_batches`."""
    mask: np.ndarray
    """bool `[steps, B]`, False on padding."""


class HostResult(NamedTuple):
    """An `AttackResult` of all examples, on the host; arrays `[N]` but for `x`."""

    x: np.ndarray | None
    """The points found `[N, ...]`, or what else a pass keeps there; None where none are kept."""
    success: np.ndarray
    inside: np.ndarray
    loss: np.ndarray
    margin: np.ndarray
    norm: np.ndarray
    forwards: np.ndarray
    backwards: np.ndarray


def prepare(
    model: ModelLike,
    variables: PyTree,
    examples: Examples,
    *,
    batch_size: int,
    devices: Sequence[Device] | None,
    num_classes: int | None,
    attacks: Iterable[AttackLike] = (),
    box: Box | None = None,
) -> Job:
    """Checks everything that can be known before compiling; arguments and errors of `evaluate`."""
    checks.at_least("batch_size", batch_size, 1)
    made, variables = as_fixed(model, variables)
    x, y = (np.asarray(part) for part in examples)
    attacks = list(attacks)
    for attack in attacks:
        warn_of_covering(getattr(attack, "threats", ()), x.shape[1:])
    if not len(x):
        raise ValueError("there is nothing to evaluate: the split holds no examples")
    if x.dtype != np.uint8:
        x = np.asarray(in_boxes(cast(Array, x), attacks, box))
    # NumPy's default is 64 bits, which JAX may be told not to use.
    x = x.astype(jax.dtypes.canonicalize_dtype(x.dtype), copy=False)
    try:
        shape = compiled.logits_shape(made, variables, x)
    except Exception as error:
        if x.ndim == 4 and x.shape[1] in (1, 3) and x.shape[3] not in (1, 3):
            raise ValueError(
                f"the model takes no images {x.shape[1:]}, which look as if channels came first: "
                "pass x.transpose(0, 2, 3, 1), or wrap the model by models.channels_first"
            ) from error
        raise
    if len(shape) != 1:
        raise ValueError(
            f"the model must give logits [K] per example, got shape {shape}"
            + ("" if shape else "; a network with one output is wrapped by models.binary")
        )
    if num_classes not in (None, shape[0]):
        raise ValueError(f"the model has {shape[0]} classes, the data {num_classes}")
    checks.labels(y, count=len(x), num_classes=shape[0])

    mesh = compiled.make_mesh(devices)
    rows = min(batch_size, len(x))
    rows = -(-rows // mesh.size) * mesh.size
    index, mask = (np.asarray(a) for a in padded_batches(len(x), rows))
    placed = compiled.place_whole(mesh, variables)
    # Labels take the width of `jnp.arange`, with which losses compare them.
    y = y.astype(jax.dtypes.canonicalize_dtype(np.int64))
    return Job(made, mesh, placed, x, y, index, mask)


def restricted(job: Job, kept: np.ndarray) -> Job:
    """The job on the examples where `kept` `[N]` holds: same batch shape, same example indices.

    So nothing compiles anew, and every example keeps its own randomness.
    """
    width = job.rows.shape[1]
    chosen = np.flatnonzero(kept)
    index, mask = (np.asarray(a) for a in padded_batches(len(chosen), width))
    return job._replace(rows=chosen.astype(job.rows.dtype)[index], mask=mask)


def scattered(result: HostResult, kept: np.ndarray) -> HostResult:
    """The results of a restricted job `[n]` among all examples `[N]`.

    The others were not attacked: no success, inside, at zero cost, with NaN for their numbers.
    """

    def spread(values: np.ndarray, rest: float | bool) -> np.ndarray:
        every = np.full((len(kept), *values.shape[1:]), rest, values.dtype)
        every[kept] = values
        return every

    return HostResult(
        x=None if result.x is None else spread(result.x, np.nan),
        success=spread(result.success, False),
        inside=spread(result.inside, True),
        loss=spread(result.loss, np.nan),
        margin=spread(result.margin, np.nan),
        norm=spread(result.norm, np.nan),
        forwards=spread(result.forwards, 0),
        backwards=spread(result.backwards, 0),
    )


def clean_pass(job: Job, tick: Tick) -> tuple[np.ndarray, Timing]:
    """Which examples `[N]` are predicted as their label, strictly and without NaN."""
    program = compiled.clean_program(job.model, job.mesh)
    return _each_batch(job, lambda *rows: program(job.variables, *rows), tick)


def attack_pass(
    job: Job, key: Key, attack: AttackLike, *, keep_examples: bool, tick: Tick
) -> tuple[HostResult, Timing]:
    """The attack's results `[N, ...]`; field `x` is None unless `keep_examples`."""
    found, timing = every_example(job, key, attack, keep_examples=keep_examples, tick=tick)
    return HostResult(*found), timing


def every_example(
    job: Job, key: Key, attack: AttackLike, *, keep_examples: bool, tick: Tick
) -> tuple[PyTree, Timing]:
    """What an attack, or any function of its form, returns on all examples: arrays `[N, ...]`."""
    attack = as_attack(attack)
    several = per_example(attack, job.x.shape[1:], len(job.x)) is not None
    count = len(job.x) if several else None
    program = compiled.attack_program(job.model, job.mesh, keep_examples, count)
    attack, key = compiled.place_whole(job.mesh, (attack, key))
    return _each_batch(job, lambda *rows: program(job.variables, attack, key, *rows), tick)


def attack_key(key: Key, name: str) -> Key:
    """The key of the attack called `name`, whatever other attacks there are."""
    if isinstance(key, int):
        raise TypeError(f"a key is needed, got the seed {key}: write jax.random.key({key})")
    return jax.random.fold_in(key, np.uint32(zlib.crc32(name.encode())))


@contextlib.contextmanager
def progress_bars(wanted: bool, steps: int) -> Iterator[Callable[[str], Tick]]:
    """Yields `bar(title) -> tick`, bars of `steps` ticks; shown by process 0 alone."""
    with Progress(disable=not wanted or jax.process_index() != 0) as progress:

        def bar(title: str) -> Tick:
            task = progress.add_task(title, total=steps)
            return lambda: progress.advance(task)

        yield bar


def in_turn(*ticks: Tick) -> Tick:
    """A tick that is all of these."""

    def tick() -> None:
        for each in ticks:
            each()

    return tick


def _each_batch(
    job: Job, run: Callable[[Array, Array, Array], PyTree], tick: Tick
) -> tuple[PyTree, Timing]:
    parts, seconds = [], []
    for index, mask in zip(job.rows, job.mask, strict=True):
        start = time.perf_counter()
        rows = (compiled.place_rows(job.mesh, a) for a in (index, job.x[index], job.y[index]))
        parts.append(compiled.host(run(*rows), mask))
        seconds.append(time.perf_counter() - start)
        tick()
    timing = Timing(first=seconds[0], rest=sum(seconds[1:]), batches=len(seconds))
    return jax.tree.map(lambda *a: np.concatenate(a), *parts), timing
