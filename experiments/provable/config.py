"""Options, settings and recipes of the study."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from jaxrobust import checks, data
from jaxrobust.data import Dataset

from ..common.attack_menu import MENU, listed, menu_item, number
from . import released
from .certifiers import CERTIFICATES, OPTIMIZED
from .recipes import FOLLOWED, METHODS, NETWORKS, PARTS, PRESETS, RELEASED, Setting


@dataclasses.dataclass(frozen=True)
class Config:
    """Trains networks on certified bounds, attacks and certifies them, and prints their errors."""

    preset: str = "quick"
    """quick, mnist-released, mnist (Table 3.1), mnist-scaled, mnist-0.3 (3.5, 3.6), mnist-l2 (3.7),
    har (3.1, 3.3), mnist-hidden (that network on MNIST), fashion_mnist, svhn_cropped (3.1), cifar10
    (3.5), cifar10-l2 (3.7)."""
    parts: tuple[str, ...] | None = None
    """Any of toy (Figures 3.3 to 3.5), table, cascade, radii (Figure 3.7), estimators (3.19), costs
    (3.20), curves (3.6, 3.12 to 3.14), projections (3.21), stages (3.18), filters (3.9, 3.10),
    activations (3.11) and slack (3.8); default: the preset's."""
    networks: tuple[str, ...] | None = None
    """Any of small, large, resnet, wide1 to wide16, deep1 to deep3, fc500."""
    eps: tuple[str, ...] | None = None
    """Radii of training and evaluation, numbers or fractions, a row each."""
    methods: tuple[str, ...] | None = None
    """Any of standard, dual (exact Wong-Kolter bounds), projections and interval."""
    attacks: tuple[str, ...] = ("fgsm", "pgd")
    """Names in the menu of `experiments.evaluate`; apgd-t is stronger."""
    certificates: tuple[str, ...] = (*CERTIFICATES, OPTIMIZED)
    """Columns of certified errors."""
    seeds: tuple[int, ...] = (0,)
    """A network of every row is trained from each."""
    limit: int | None = None
    """Attack and certify the first so many test images."""
    exact: int | None = None
    """Undecided images to settle by an integer program (linf), of networks of the first method
    that trains on bounds."""
    radii: int | None = None
    """Images whose largest certified radius is sought."""
    train_limit: int | None = None
    """Train on the first so many images."""
    epochs: int | None = None
    train_batch_size: int | None = None
    learning_rate: float | None = None
    samples: int | None = None
    """Random projections in training."""
    stages: int | None = None
    """Networks of each cascade, trained by the first method that trains on bounds."""
    chunk: int | None = None
    """Rows of a bound at a time, to save memory."""
    pretrained_dir: Path | None = None
    """Folder of the released weights, for the preset mnist-released."""
    reference_dir: Path | None = None
    """Folder of the released code's bounds on MNIST, to compare ours with; test images then come in
    the original order."""
    har_dir: Path | None = None
    """Folder of the text files of HAR, for the preset har; see `data.from_har`."""
    data_dir: Path | None = None
    """Folder of prepared TFDS sets (default: the environment variable TFDS_DATA_DIR)."""
    batch_size: int = 100
    """Images attacked or certified at a time."""
    out: Path = Path("runs/provable")
    progress: bool = True


def setting(config: Config) -> Setting:
    """The preset's setting with the options that are given.

    Raises:
      ValueError: an unknown name, an option of another preset, or an impossible number.
    """
    checks.choice("preset", config.preset, PRESETS)
    preset = PRESETS[config.preset]
    is_released = config.preset == RELEASED
    given = {
        name: getattr(config, name)
        for name in (
            "parts", "networks", "methods", "limit", "exact", "radii", "samples", "stages", "chunk"
        )
        if getattr(config, name) is not None
    }  # fmt: skip
    if config.eps is not None:
        given["epsilons"] = tuple(number(text) for text in listed(config.eps))
    training = {
        "epochs": config.epochs,
        "batch_size": config.train_batch_size,
        "learning_rate": config.learning_rate,
    }
    changes = {name: value for name, value in training.items() if value is not None}
    chosen = dataclasses.replace(
        preset, **given, recipe=dataclasses.replace(preset.recipe, **changes)
    )
    if is_released != (config.pretrained_dir is not None):
        raise ValueError(
            f"--pretrained-dir and --preset {RELEASED} belong together: the one certifies what the "
            "other holds; to train on MNIST instead, use --preset mnist"
        )
    if (chosen.dataset == "har") != (config.har_dir is not None):
        raise ValueError(
            "--har-dir and --preset har belong together: the one names the folder that the other "
            "reads; without the files, --preset mnist-hidden trains that network on MNIST"
        )
    if is_released and set(chosen.parts) & set(FOLLOWED):
        raise ValueError(
            f"--preset {RELEASED} trains nothing, so that there is no training to follow in the "
            f"parts {', '.join(FOLLOWED)}"
        )
    trains = {"networks", "epsilons", "samples", "stages"} & given.keys() | changes.keys()
    if is_released and (trains or config.train_limit is not None or config.seeds != (0,)):
        named = ", ".join(sorted(trains)) or "train_limit or seeds"
        raise ValueError(f"--preset {RELEASED} trains nothing, so that {named} changes nothing")
    if config.reference_dir is not None and not is_released:
        raise ValueError(f"--reference-dir holds bounds of the networks of --preset {RELEASED}")
    known = {
        "parts": (chosen.parts, PARTS),
        "networks": (chosen.networks, NETWORKS),
        "methods": (chosen.methods, released.WEIGHTS if is_released else METHODS),
        "certificates": (config.certificates, (*CERTIFICATES, OPTIMIZED)),
        "attacks": (tuple(listed(config.attacks)), MENU),
    }
    for name, (values, all_known) in known.items():
        for value in values:
            checks.choice(name, value, all_known)
        if len(set(values)) < len(values):
            raise ValueError(f"{name} holds a value twice: {' '.join(values)}")
    for name, values in {**{n: v for n, (v, _) in known.items()}, "seeds": config.seeds}.items():
        if not values and name != "attacks":
            raise ValueError(f"nothing to do: --{name} names none")
    for attack in known["attacks"][0]:
        menu_item(attack, chosen.norm)
    for radius in chosen.epsilons:
        checks.positive("eps", radius)
    for name, least in (
        ("limit", 1), ("radii", 1), ("samples", 1), ("stages", 1), ("exact", 0), ("attack_steps", 1)
    ):  # fmt: skip
        checks.at_least(name, getattr(chosen, name), least)
    if chosen.exact and chosen.norm != "linf":
        raise ValueError("integer programs know linf balls only: use --exact 0")
    return chosen


def load(config: Config, chosen: Setting) -> Dataset:
    """The data set: the training images asked for, and all test images."""
    if config.har_dir is not None:
        dataset = data.from_har(config.har_dir)
    else:
        dataset = data.load(chosen.dataset, data_dir=config.data_dir)
    if config.reference_dir is not None:
        dataset = released.ordered(dataset, config.reference_dir)
    if config.train_limit is not None:
        checks.at_least("train_limit", config.train_limit, 1)
        train = dataset.train.first(config.train_limit)
        dataset = dataclasses.replace(dataset, train=train)
    return dataset
