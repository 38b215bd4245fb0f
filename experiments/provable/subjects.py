"""The classifiers that the study certifies, and how they are trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import optax

from jaxrobust import defenses, training
from jaxrobust.data import Dataset, Split
from jaxrobust.defenses import Defense
from jaxrobust.models import build, from_linen
from jaxrobust.models.pretrained import CIFAR_MEAN, CIFAR_STD
from jaxrobust.types import Model, ThreatModel, Variables

from ..common.attack_menu import make_threat
from ..common.runner import AUGMENT, Study, study
from .published import told as text
from .recipes import NETWORKS, Setting


class Row(NamedTuple):
    """A row of the table."""

    network: str
    radius: float
    method: str

    @property
    def name(self) -> str:
        """To show, and for folders."""
        return f"{self.network} {text(self.radius)} {self.method}"


class Subject(NamedTuple):
    """A trained classifier, the set it is certified on, and the images around which it is."""

    row: Row
    seed: int
    model: Model
    variables: Variables
    threat: ThreatModel
    examples: Split

    @property
    def name(self) -> str:
        """Names its folders: one for each row and seed."""
        return f"{self.row.name} seed{self.seed}".replace("/", "_").replace(" ", "-")


def rows(setting: Setting) -> list[Row]:
    """The rows of the table, in order."""
    return [
        Row(network, radius, method)
        for network in setting.networks
        for radius in setting.epsilons
        for method in setting.methods
    ]


def network(setting: Setting, name: str, dataset: Dataset) -> Model:
    """The thesis' network of that name; CIFAR-10's normalizes as the released ones do."""
    module, options = NETWORKS[name]
    if dataset.name == "cifar10":
        options = {**options, "mean": CIFAR_MEAN, "std": CIFAR_STD}
    dtype = jnp.dtype(setting.recipe.dtype)
    return from_linen(build(module, dataset.num_classes, {"dtype": dtype, **options}))


def defense(setting: Setting, row: Row) -> Defense:
    """The row's training method. Interval bounds share the loss with the clean one, as Gowal's."""
    if row.method == "standard":
        return defenses.erm()
    options = {
        "dual": {"methods": ("wong_kolter",), "chunk": setting.chunk},
        "projections": {"samples": setting.samples},
        # At a constant share of the clean loss it sticks at the constant prediction.
        "interval": {"methods": ("interval",), "first_clean_weight": 1.0, "clean_weight": 0.5},
    }[row.method]
    return defenses.dual(
        make_threat(setting.norm, row.radius),
        ramp=setting.recipe.ramp,
        first_radius=min(setting.first, row.radius),
        **options,
    )


@dataclasses.dataclass(frozen=True)
class Trainer:
    """Trains the rows of a setting, each once per `folder`."""

    setting: Setting
    dataset: Dataset
    folder: Path
    progress: bool

    def study(self, model: Model, name: str, dataset: Dataset) -> Study:
        """What a training run on `dataset` shares with others."""
        recipe = dataclasses.replace(self.setting.recipe, model=NETWORKS[name].model)
        shared = study(recipe, dataset)
        optimizer = shared.optimizer
        if self.setting.clip is not None:
            optimizer = optax.chain(optax.clip_by_global_norm(self.setting.clip), optimizer)
        return dataclasses.replace(shared, model=model, optimizer=optimizer)

    def threat(self, row: Row) -> ThreatModel:
        """The set that a row is certified on."""
        return make_threat(self.setting.norm, row.radius)

    def train(
        self, row: Row, seed: int, shared: Study, *, stage: int = 0, lessons: Defense
    ) -> Variables:
        """The weights of a row, or of a later stage of its cascade; resumes."""
        return self.run(row, seed, shared, stage=stage, lessons=lessons).state.variables

    def run(
        self,
        row: Row,
        seed: int,
        shared: Study,
        *,
        stage: int = 0,
        lessons: Defense,
        told: str = "",
        validate: training.Validate | None = None,
    ) -> training.Run:
        """A row's training, or that of a later stage of its cascade; resumes.

        Args:
          told: joins the name of its folder, for what is validated after every epoch.
        """
        # A network trained on clean images is the same at every radius.
        named = row.method if row.method == "standard" else f"{text(row.radius)} {row.method}"
        name = f"{row.network} {named} seed{seed}" + (f" stage{stage}" if stage else "")
        name += f" {told}" if told else ""
        setting = self.setting
        held = None if row.method == "standard" else (setting.norm, row.radius, setting.first)
        return training.fit(
            seed + 1000 * stage,
            shared.model,
            lessons,
            shared.dataset,
            shared.optimizer,
            epochs=shared.recipe.epochs,
            batch_size=shared.recipe.batch_size,
            run=self.folder / name.replace("/", "_").replace(" ", "-"),
            config={
                "dataset": shared.dataset.name,
                "recipe": dataclasses.asdict(shared.recipe),
                "network": row.network,
                "method": row.method,
                "ball": held,
                "samples": setting.samples if row.method == "projections" else None,
                "clip": setting.clip,
                "stage": stage,
            },
            augment=AUGMENT if shared.recipe.augment else None,
            validate=validate,
            progress=self.progress,
        )

    def subjects(self, seeds: tuple[int, ...]) -> Iterator[Subject]:
        """Every row from every seed; rows of one network share its compiled programs."""
        models = {name: network(self.setting, name, self.dataset) for name in self.setting.networks}
        examples = self.dataset.test.first(self.setting.limit)
        for row in rows(self.setting):
            shared = self.study(models[row.network], row.network, self.dataset)
            lessons = defense(self.setting, row)
            threat = self.threat(row)
            for seed in seeds:
                variables = self.train(row, seed, shared, lessons=lessons)
                yield Subject(row, seed, shared.model, variables, threat, examples)
