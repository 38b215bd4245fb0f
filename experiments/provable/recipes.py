"""What each preset of the study trains and certifies, and the figures published for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from ..common.recipes import Recipe
from .published import PUBLISHED


class Network(NamedTuple):
    """A network by its name in `jaxrobust.models.build` and its options there."""

    model: str
    options: Mapping[str, Any] = {}


NETWORKS: Mapping[str, Network] = {
    "small": Network("wong_small"),
    "large": Network("wong_large"),
    "resnet": Network("wong_resnet"),
    **{f"wide{k}": Network("wong_wide", {"width": k}) for k in (1, 2, 4, 8, 16)},
    **{f"deep{k}": Network("wong_deep", {"depth": k}) for k in (1, 2, 3)},
    "fc500": Network("mlp", {"widths": (500,)}),
    "signed500": Network("mlp", {"widths": (500,), "mean": (0.5,), "std": (0.5,)}),
}
"""The thesis' networks: wide and deep ones with their k, and one hidden layer of 500 units, that
takes features of [0, 1] as they are or, signed, as numbers of [-1, 1]."""

PARTS = (
    *("toy", "table", "cascade", "radii", "estimators", "costs"),
    *("curves", "projections", "stages", "filters", "activations", "slack"),
)
"""What a run can make: figures 3.3 to 3.5; tables 3.1, 3.3 and 3.6; tables 3.5 and 3.7; figures
3.7, 3.19 and 3.20; 3.6 (on other data 3.12 to 3.14), 3.21 and 3.18; 3.9 and 3.10, 3.11 and 3.8."""

FOLLOWED = ("curves", "projections", "stages")
"""Parts that follow a training of their own."""

METHODS = ("standard", "dual", "projections", "interval")
"""How a network is trained: on clean images, on exact dual bounds, on estimates of them from random
projections, on interval bounds."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """A table: data, networks, radii, training and evaluation."""

    dataset: str
    recipe: Recipe
    """Recipe of training. Radius, model and attacks are those of `epsilons`, `networks` and the
    menu."""
    networks: tuple[str, ...]
    epsilons: tuple[float, ...]
    """Radii in pixels of [0, 1], of training and evaluation alike."""
    methods: tuple[str, ...]
    limit: int
    """Test images to attack and to certify."""
    first: float
    """Radius at which training on bounds starts; `recipe.ramp` says how long it grows."""
    norm: Literal["linf", "l2"] = "linf"
    samples: int = 50
    """Random projections."""
    clip: float | None = None
    """Largest norm of a gradient."""
    stages: int = 5
    """Networks of each cascade; cascades are trained by the `main` method."""
    chunk: int | None = None
    """Rows of a bound at a time, to save memory."""
    attack_steps: int = 100
    """Steps of PGD; each moves by a tenth of the radius (the thesis': 100 steps of .01 at .1)."""
    exact: int = 0
    """Undecided images to settle by an integer program, of networks of the `main` method."""
    radii: int = 1000
    """Images whose largest certified radius is sought."""
    watched: int = 500
    """Images of each split whose losses and errors are followed through training."""
    projections: tuple[int, ...] = (10, 50)
    """Numbers of projections of figure 3.21, beside exact bounds."""
    programs: int = 10
    """Images whose dual bounds are set beside linear programs."""
    filters: tuple[int, ...] = (8, 16, 32, 64)
    """Filters of the convolutions whose bounds are timed."""
    parts: tuple[str, ...] = ("table", "radii", "estimators")
    published: Mapping[tuple[str, str, str], str] = dataclasses.field(default_factory=dict)
    """The thesis' figures by network, radius and method."""
    note: str = ""
    """What to say in titles."""

    @property
    def main(self) -> str | None:
        """The first method that trains on bounds."""
        return next((method for method in self.methods if method != "standard"), None)


def _recipe(**options: Any) -> Recipe:
    unused = {"model": "", "epsilon": 0.0, "step_size": 0.0, "steps": 0}
    return Recipe(**{**unused, "schedule": "constant", **options})


# Table 3.1: the radius grows over the first half.
_FIRST = _recipe(epochs=100, batch_size=50, optimizer="adam", learning_rate=1e-3, ramp=0.5)

# Tables 3.5 to 3.7: it grows for 20 of 60 epochs; from then on the rate halves every 10.
_SCALED = dataclasses.replace(
    _FIRST,
    epochs=60,
    ramp=20 / 60,
    schedule="piecewise",
    schedule_options={"at": (30 / 60, 40 / 60, 50 / 60), "factor": 0.5},
)

_MNIST = Setting(
    dataset="mnist",
    recipe=_FIRST,
    networks=("small",),
    epsilons=(0.1,),
    methods=("standard", "dual"),
    limit=10_000,
    first=0.05,
    published=PUBLISHED["mnist"],
)

_MNIST_SCALED = dataclasses.replace(
    _MNIST,
    recipe=_SCALED,
    methods=("projections",),
    first=0.01,
    published=PUBLISHED["mnist-scaled"],
)

# Published with normalized pixels: there the radii are these over .225.
_CIFAR = dataclasses.replace(
    _MNIST_SCALED,
    dataset="cifar10",
    recipe=dataclasses.replace(
        _SCALED, optimizer="sgd", learning_rate=0.05, weight_decay=5e-4, augment=True
    ),
    epsilons=(2 / 255, 8 / 255),
    first=0.001,
    clip=1.0,
    published=PUBLISHED["cifar10"],
)

RELEASED = "mnist-released"
"""The preset that trains nothing: see `released`."""

PRESETS: Mapping[str, Setting] = {
    "quick": Setting(
        dataset="digits",
        recipe=_recipe(
            epochs=10, batch_size=32, optimizer="adam", learning_rate=4e-3, schedule="cyclic",
            ramp=0.5,
        ),
        networks=("wide1",),
        epsilons=(0.05,),
        methods=METHODS,
        limit=500,
        first=0.005,
        samples=10,
        stages=2,
        exact=3,
        radii=100,
        watched=100,
        projections=(2, 10),
        programs=5,
        filters=(4, 16),
        parts=("toy", "table", "cascade", "radii", "estimators", "costs"),
    ),
    "mnist": _MNIST,
    "mnist-scaled": _MNIST_SCALED,
    "mnist-0.3": dataclasses.replace(_MNIST_SCALED, epsilons=(0.3,)),
    "mnist-l2": dataclasses.replace(
        _MNIST_SCALED, norm="l2", epsilons=(1.58,), published=PUBLISHED["mnist-l2"]
    ),
    "mnist-hidden": dataclasses.replace(
        _MNIST,
        recipe=dataclasses.replace(_FIRST, learning_rate=1e-4, ramp=0.0),
        networks=("fc500",),
        epsilons=(0.05, 0.1, 0.25, 0.5, 1.0),
        methods=("dual",),
        published={},
        note="table 3.3 of the thesis is this network on HAR",
    ),
    "har": dataclasses.replace(
        _MNIST,
        dataset="har",
        recipe=dataclasses.replace(_FIRST, learning_rate=1e-4, ramp=0.0),
        networks=("signed500",),
        epsilons=(0.025, 0.05, 0.125, 0.25, 0.5),
        parts=("table",),
        published=PUBLISHED["har"],
        note="features in [0, 1]: radii are half the thesis', whose features span [-1, 1]",
    ),
    "fashion_mnist": dataclasses.replace(
        _MNIST, dataset="fashion_mnist", published=PUBLISHED["fashion_mnist"]
    ),
    "svhn_cropped": dataclasses.replace(
        _MNIST,
        dataset="svhn_cropped",
        recipe=dataclasses.replace(_FIRST, batch_size=20),
        epsilons=(0.01,),
        first=0.001,
        published=PUBLISHED["svhn_cropped"],
    ),
    RELEASED: dataclasses.replace(
        _MNIST,
        limit=200,
        exact=3,
        radii=50,
        parts=("table", "cascade", "radii", "estimators", "filters", "activations"),
        programs=3,
        note="networks released with the thesis",
    ),
    "cifar10": _CIFAR,
    "cifar10-l2": dataclasses.replace(
        _CIFAR, norm="l2", epsilons=(36 / 255,), published=PUBLISHED["cifar10-l2"]
    ),
}  # fmt: skip
"""Presets by the name on the command line."""
