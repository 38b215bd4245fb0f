"""Options, settings and recipes of the study."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp

from jaxrobust.data import Stream, open_stream
from jaxrobust.models import build, from_linen
from jaxrobust.types import Model

from ..common.options import distinct
from .made_up import NAME, made_up
from .recipes import MEAN, PRESETS, STD, Setting, checked, with_phases


@dataclasses.dataclass(frozen=True)
class Config:
    """Trains ResNet-50 on streamed images and prints clean and PGD accuracy, and the time taken."""

    preset: Literal["made-up", "imagenet"] = "made-up"
    """made-up: a small set written here. imagenet: the thesis' settings."""
    radii: tuple[float, ...] | None = None
    """Radii of the linf ball, in 255ths; a row each (default: the preset's)."""
    seeds: tuple[int, ...] = (0,)
    """A run of every row from each."""
    out: Path = Path("runs/imagenet")
    """Folder of the results; the made-up set too is written there."""
    data_dir: Path | None = None
    """Folder of prepared TFDS sets (default: the environment variable TFDS_DATA_DIR)."""
    limit: int | None = None
    """Train on at most so many images (made-up: write so many)."""
    test_limit: int | None = None
    """Test on at most so many images (made-up: write so many)."""
    threads: int = 8
    """That read, decode and cut images (0: none beside the training)."""
    epochs: tuple[int, ...] | None = None
    """Epochs of each phase."""
    sizes: tuple[int, ...] | None = None
    """Sizes of images in each phase, in pixels."""
    batch_sizes: tuple[int, ...] | None = None
    """Batch sizes of each phase."""
    eval_size: int | None = None
    """Size of test images, in pixels."""
    eval_batch: int | None = None
    """Test images attacked at a time."""
    steps: int | None = None
    """Steps of the evaluation's PGD."""
    restarts: int | None = None
    """Restarts of the evaluation's PGD, the first run included."""
    attack_mode: Literal["train", "eval"] | None = None
    """Batch statistics inside the training attack: the batch's (released code), or running ones."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    progress: bool = True


def setting_of(config: Config) -> Setting:
    """The preset's setting with the options that are given.

    Raises:
      ValueError: a number that is impossible, given twice or not given for each phase.
    """
    preset = PRESETS[config.preset]
    names = ("radii", "eval_size", "eval_batch", "steps", "restarts", "attack_mode", "dtype")
    given = {name: getattr(config, name) for name in names if getattr(config, name) is not None}
    phases = with_phases(
        preset.phases,
        epochs=config.epochs,
        sizes=config.sizes,
        batch_sizes=config.batch_sizes,
    )
    setting = checked(dataclasses.replace(preset, phases=phases, **given))
    distinct("radii", setting.radii)
    distinct("seeds", config.seeds)
    if not config.seeds:
        raise ValueError("nothing to run: give at least one of --seeds")
    return setting


def load(config: Config, setting: Setting) -> Stream:
    """The preset's images, none of them read yet."""
    options = {"test_split": setting.test_split, "threads": config.threads}
    if config.preset == "made-up":
        train = 256 if config.limit is None else config.limit
        test = 64 if config.test_limit is None else config.test_limit
        return open_stream(
            NAME, data_dir=made_up(config.out / NAME, train=train, test=test), **options
        )
    options |= {"limit": config.limit, "test_limit": config.test_limit}
    return open_stream(setting.dataset, data_dir=config.data_dir, **options)


def network(setting: Setting, stream: Stream) -> Model:
    """ResNet-50, as narrow and as short as the setting says."""
    options = {"mean": MEAN, "std": STD, "dtype": jnp.dtype(setting.dtype), **setting.network}
    model = from_linen(build("resnet50", stream.num_classes, options))
    # Compiled, the initialization leaves out the forward pass that it shows the shapes by.
    return model._replace(init=jax.jit(model.init))
