"""What every side of a benchmark attacks: one network and its images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxrobust import data, defenses, training
from jaxrobust.models import build, load_pretrained
from jaxrobust.models.convnet import ConvNet, ConvSpec
from jaxrobust.threats import Linf
from jaxrobust.types import Model, Variables

from ..common.arithmetic import forward_flops
from ..common.recipes import recipe
from ..common.runner import study


class Subject(NamedTuple):
    """A trained network, how it is built, and test images with their labels."""

    model: Model
    variables: Variables
    convs: Sequence[ConvSpec]
    widths: Sequence[int]
    x: np.ndarray
    """float32 `[N, H, W, C]` in [0, 1]."""
    y: np.ndarray
    """int32 `[N]`."""
    classes: int
    label: str
    """Network and images, to print beside figures."""

    @property
    def flops(self) -> int:
        """Floating-point operations of one image's forward pass; see `forward_flops`."""
        return forward_flops(self.convs, self.widths, self.x.shape[1:], self.classes)


def load(
    dataset: str, pretrained: Path | None, data_dir: Path | None, images: int, folder: Path
) -> Subject:
    """The first `images` test images, and the network that they are for.

    `pretrained` is Wong's small network; without it the quick recipe's network for the data set is
    trained against PGD (seconds on the embedded digits), once per `folder`.

    Raises:
      ValueError: fewer test images than asked for, a data set unknown or whose network has no twin,
        or a wrong file of weights.
      FileNotFoundError: no such file, or a data set that is not there.
    """
    held = data.load(dataset, data_dir=data_dir, limit=images)
    if held.test.size < images:
        raise ValueError(f"{dataset} has {held.test.size} test images; --images asks {images}")
    x = held.test.x[:images].astype(np.float32) / 255
    classes = held.num_classes
    name = "wong_small" if pretrained else recipe(dataset, "quick").model
    network = build(name, classes)
    if not isinstance(network, ConvNet):
        raise ValueError(f"the recipe's network for {dataset}, {name}, has no PyTorch twin here")
    if pretrained:
        title, (model, variables) = pretrained.stem, load_pretrained(pretrained)
    else:
        title = f"{name} trained against PGD"
        model, variables = _train(dataset, data_dir, folder)
    label = f"{title}, first {images} test images of {held.label}"
    y = held.test.y[:images]
    return Subject(model, variables, network.convs, network.widths, x, y, classes, label)


def _train(dataset: str, data_dir: Path | None, folder: Path) -> tuple[Model, Variables]:
    settings = recipe(dataset, "quick")
    full = data.load(dataset, data_dir=data_dir, validation=settings.validation)
    shared = study(settings, full)
    steps = {"step_size": settings.step_size, "steps": settings.steps, "ramp": settings.ramp}
    run = training.fit(
        0,
        shared.model,
        defenses.pgd(Linf(settings.epsilon), **steps),
        full,
        shared.optimizer,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        run=folder,
        config={"method": "pgd", "epsilon": settings.epsilon, "model": settings.model, **steps},
    )
    return shared.model, run.state.variables
