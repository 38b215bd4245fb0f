"""Evaluating a model on test images that do not fit into memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from jaxrobust.data import Stream
from jaxrobust.evaluation import AttackReport, Report, evaluate
from jaxrobust.evaluation.report import Metadata, Timing
from jaxrobust.types import Attack, Key, Model, Variables


def evaluate_stream(
    key: Key,
    model: Model,
    variables: Variables,
    stream: Stream,
    attacks: Mapping[str, Attack],
    *,
    size: int,
    chunk: int,
    batch_size: int,
    folder: Path,
    metadata: Metadata,
    progress: bool = True,
) -> Report:
    """`evaluate` on all test images of a stream, `chunk` of them in memory at a time.

    Attacks see only what those before them have left standing, as with `survivors`. Chunks are
    journaled under `folder`, so that an evaluation that was killed repeats one batch at most.

    Args:
      size: pixels on a side. chunk: a multiple of `batch_size`.
    """
    if chunk % batch_size:
        raise ValueError(f"chunk={chunk} is no multiple of the batch size {batch_size}")
    reports = [
        evaluate(
            jax.random.fold_in(key, number),
            model,
            variables,
            split,
            attacks,
            batch_size=batch_size,
            survivors=True,
            num_classes=stream.num_classes,
            metadata=metadata,
            folder=folder / f"chunk{number:05d}",
            progress=progress,
        )
        for number, split in enumerate(stream.chunks(size=size, count=chunk))
    ]
    return joined(reports)


def joined(reports: Sequence[Report]) -> Report:
    """One report on the examples of all, in order.

    Raises:
      ValueError: no reports, or reports on different attacks.
    """
    if not reports:
        raise ValueError("there is nothing to evaluate: the stream holds no test images")
    names = list(reports[0].attacks)
    if any(list(report.attacks) != names for report in reports):
        raise ValueError("the reports are on different attacks; join those of one evaluation")
    counts = [report.count for report in reports]
    return Report(
        clean=np.concatenate([report.clean for report in reports]),
        clean_timing=_added([report.clean_timing for report in reports]),
        attacks={name: _joined([r.attacks[name] for r in reports], counts) for name in names},
        metadata=reports[0].metadata,
    )


def _joined(parts: Sequence[AttackReport], counts: Sequence[int]) -> AttackReport:
    arrays = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("robust", "inside", "norm", "margin")
    }
    return AttackReport(
        **arrays,
        forwards=float(np.average([part.forwards for part in parts], weights=counts)),
        backwards=float(np.average([part.backwards for part in parts], weights=counts)),
        timing=_added([part.timing for part in parts]),
    )


def _added(timings: Sequence[Timing]) -> Timing:
    """The first batch of all is the one that compiled."""
    batches = sum(timing.batches for timing in timings)
    total = sum(timing.first + timing.rest for timing in timings)
    return Timing(first=timings[0].first, rest=total - timings[0].first, batches=batches)
