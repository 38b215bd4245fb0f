"""What every benchmark command asks: which network and images, how often, and where to write."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path

import jax

from jaxrobust import checks

from ..common.arithmetic import cores
from . import subject
from .subject import Subject


@dataclasses.dataclass(frozen=True)
class Run:
    """The options that the commands share."""

    repeats: int = 5
    """Timed calls after the first, of which the median counts."""
    dataset: str = "digits"
    """digits, or a gray TFDS set: mnist, fashion_mnist, ..."""
    pretrained: Path | None = None
    """Released weights (.npz) of Wong's small network; without them one is trained quickly."""
    data_dir: Path | None = None
    """Folder of prepared TFDS sets (default: the environment variable TFDS_DATA_DIR)."""
    out: Path = Path("runs/benchmark")
    """Folder of the results."""

    def subject(self, images: int) -> Subject:
        """The network and the first `images` test images; errors as `subject.load`, and repeats."""
        checks.at_least("repeats", self.repeats, 1)
        folder = self.out / "network"
        return subject.load(self.dataset, self.pretrained, self.data_dir, images, folder)

    def conditions(self, *, torch: bool) -> str:
        """How and where a job of a few threads was timed, for the titles."""
        return (
            f"float32, median of {self.repeats} calls, "
            f"{jax.local_device_count()} x {jax.devices()[0].device_kind}, {cores()} cores, "
            f"PyTorch (threads), jax {jax.__version__}"
            + (f", torch {version('torch')}" if torch else "")
        )


def once_each(name: str, chosen: Sequence[str], known: Iterable[str]) -> None:
    """Raises ValueError unless the option --`name`s holds known values, one or more, none twice."""
    for value in chosen:
        checks.choice(name, value, known)
    if not chosen or len(set(chosen)) < len(chosen):
        raise ValueError(f"--{name}s must name {name}s once each, got {chosen}")


def whole_batches(images: int, size: int) -> None:
    """Raises ValueError unless `images` fill whole batches of `size`."""
    if images % size:
        raise ValueError(f"--images {images} does not fill whole batches of {size}")


def load() -> str:
    """The machine's load before the run, where the system tells: others' work spoils timings."""
    return f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
