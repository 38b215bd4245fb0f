"""Other implementations of an attack: which can run here, and as what.

Nothing is imported before it is known to be installed: the benchmark runs without any of them.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from .judging import Judge
from .settings import Settings
from .subject import Subject
from .timing import Entrant, Skipped
from .twin import Perturb, Twin, runner

Make = Callable[[Twin, Settings], Perturb]


class Peer(NamedTuple):
    """Another implementation of an attack."""

    name: str
    package: str
    make: Make | None
    """None: it has no such attack, for the reason in `note`."""
    same: bool = True
    note: str = ""

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
        try:
            perturb = peer.make(twin, settings)
        except ImportError as error:
            skipped.append(Skipped(peer.label, f"does not import: {error}"))
            continue
        run = runner(perturb, twin, subject, batch=batch, seed=seed)

        def figures(points: np.ndarray) -> dict[str, float | None]:
            # Of the call just made: `run` counts anew.
            passes = twin.seen[0] / len(points)
            return {**judge(points), "forwards": passes, "backwards": None}

        ready.append(Entrant(peer.label, run, figures, peer.same, peer.note))
    return ready, skipped
