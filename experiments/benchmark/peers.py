"""Other implementations of an attack: which can run here, and as what.

Nothing is imported before it is known to be installed: the benchmark runs without any of them.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from . import memory
from .judging import Judge
from .settings import Settings
from .subject import Subject
from .timing import Entrant, Skipped
from .twin import Twin, runner

Make = Callable[[Twin, Settings], Any]
"""Makes a `Perturb`, or where `Peer.whole` the same with a batch size as a third argument."""


class Peer(NamedTuple):
    """Another implementation of an attack."""

    name: str
    package: str
    make: Make | None
    """None: it has no such attack, for the reason in `note`."""
    same: bool = True
    note: str = ""
    device: str | None = None
    """The one kind of device, "cpu" or "cuda", that it is for; None: any."""
    whole: bool = False
    """Takes all images at once and splits them into batches by itself, as suites do."""

    @property
    def label(self) -> str:
        """Name and version."""
        return f"{self.name} {importlib.metadata.version(self.package)}".removesuffix("+cpu")


MODULES = {"adversarial-robustness-toolbox": "art"}
"""How a package is imported where that is not its name."""


def installed(package: str) -> bool:
    """Whether the package can be imported."""
    return importlib.util.find_spec(MODULES.get(package, package)) is not None


def missing(peer: Peer) -> str | None:
    """Why the peer cannot run here, or None if it can."""
    if peer.make is None:
        return peer.note
    absent = [p for p in dict.fromkeys(("torch", peer.package)) if not installed(p)]
    return f"{' and '.join(absent)} not installed, see requirements-bench.txt" if absent else None


def entrants(
    peers: Sequence[Peer],
    twin: Twin | None,
    subject: Subject,
    settings: Settings,
    judge: Judge,
    *,
    batch: int,
    seed: int,
) -> tuple[list[Entrant], list[Skipped]]:
    """The peers that can run here on the twin network, and why the others cannot."""
    ready, skipped = [], []
    for peer in peers:
        reason = missing(peer)
        if reason is not None:
            skipped.append(Skipped(peer.name, reason))
            continue
        here = next(twin.network.parameters()).device.type
        if peer.device not in (None, here):
            skipped.append(Skipped(peer.name, f"for {peer.device} alone, and this is the {here}"))
            continue
        try:
            perturb = peer.make(twin, settings)
        except ImportError as error:
            skipped.append(Skipped(peer.label, f"does not import: {error}"))
            continue
        size = batch
        if peer.whole:
            perturb, size = functools.partial(perturb, batch=batch), len(subject.x)
        run = runner(perturb, twin, subject, batch=size, seed=seed)

        def figures(points: np.ndarray) -> dict[str, float | None]:
            # Of the call just made: `run` counts anew.
            passes = twin.seen[0] / len(points)
            return {**judge(points), "forwards": passes, "backwards": None}

        meter = memory.torch_cuda if here == "cuda" else memory.host
        ready.append(Entrant(peer.label, run, figures, peer.same, peer.note, meter))
    return ready, skipped
