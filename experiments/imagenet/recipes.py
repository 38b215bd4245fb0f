"""What each preset of the ImageNet recipe trains and attacks, and the thesis' figures."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from jaxrobust import attacks, checks, defenses
from jaxrobust.defenses import Defense
from jaxrobust.threats import Linf
from jaxrobust.training import Phase
from jaxrobust.types import Attack

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and deviation of ImageNet's channels."""

STEP = 1.25
"""Step size of FGSM with a random start, by the radius."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """A network, its phases of training, and the attacks that judge it."""

    dataset: str
    test_split: str
    phases: tuple[Phase, ...]
    radii: tuple[float, ...] = (2.0, 4.0)
    """A row each, in 255ths of the pixel range."""
    network: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Options of ResNet-50: `width` and `blocks`."""
    dtype: str = "bfloat16"
    """Compute type; parameters stay float32."""
    momentum: float = 0.9
    weight_decay: float = 1e-4
    """Decay of matrices and kernels alone: not of normalization and biases."""
    attack_mode: str = "train"
    """Batch statistics inside the training attack: those of the batch, or "eval", running ones."""
    eval_size: int = 288
    """Pixels on a side of test images."""
    eval_batch: int = 128
    chunk: int = 512
    """Test images in memory at a time."""
    steps: int = 50
    restarts: int = 10
    step_size: float = 1.0
    """Step size of the evaluation's PGD, in 255ths."""
    published: Mapping[str, Sequence[float]] = dataclasses.field(default_factory=dict)
    """Clean, PGD+1 and PGD+10 accuracy by row."""
    published_minutes: tuple[float, ...] = ()
    """Per epoch of each phase."""

    def defense(self, radius: float) -> Defense:
        """FGSM training with a random start (Wong's thesis, section 4.1)."""
        threat = Linf(radius / 255)
        step_size = STEP * radius / 255
        return defenses.fgsm(
            threat, start=attacks.uniform, step_size=step_size, attack_mode=self.attack_mode
        )

    def columns(self, radius: float) -> dict[str, Attack]:
        """PGD once for each restart: meant for an evaluation that attacks survivors.

        An image counts as broken if any run broke it, and what one has broken needs no other, so
        that the n-th column is the accuracy under n restarts. All are one compiled program.
        """
        step_size = self.step_size / 255
        once = attacks.pgd(Linf(radius / 255), step_size=step_size, steps=self.steps)
        return {f"PGD{self.steps}+{n}": once for n in range(1, self.restarts + 1)}


def row_name(radius: float) -> str:
    """The row of a radius in 255ths."""
    return f"fgsm_rs eps={radius:g}/255"


def checked(setting: Setting) -> Setting:
    """The setting, or ValueError where a number of it is impossible or a radius given twice."""
    for name in ("eval_size", "eval_batch", "chunk", "steps", "restarts"):
        checks.at_least(name, getattr(setting, name), 1)
    if not setting.radii:
        raise ValueError("nothing to train: give at least one of --radii")
    if setting.chunk % setting.eval_batch:
        raise ValueError(
            f"eval_batch={setting.eval_batch} does not divide the {setting.chunk} test images that "
            "are held in memory at a time"
        )
    for radius in setting.radii:
        checks.positive("radius", radius)
    checks.choice("attack_mode", setting.attack_mode, ("eval", "train"))
    return setting


def with_phases(
    phases: Sequence[Phase],
    *,
    epochs: Sequence[int] | None,
    sizes: Sequence[int] | None,
    batch_sizes: Sequence[int] | None,
) -> tuple[Phase, ...]:
    """The phases with other numbers, one for each of them; None leaves the preset's.

    Raises:
      ValueError: not as many numbers as phases, or an impossible one.
    """
    found = list(phases)
    changes = {"epochs": epochs, "size": sizes, "batch_size": batch_sizes}
    for name, values in changes.items():
        if values is None:
            continue
        if len(values) != len(found):
            raise ValueError(
                f"{name} needs a number for each of the {len(found)} phases, got "
                f"{' '.join(map(str, values))}"
            )
        found = [
            dataclasses.replace(phase, **{name: value})
            for phase, value in zip(found, values, strict=True)
        ]
    return tuple(found)


# Wong's thesis, section 4.2.3 and tables 4.7 and 4.8; the warm-up of one epoch and the sizes of
# crops as in the released code, which cuts them from copies of 160 and 352 pixels in the first two
# phases to read less.
IMAGENET = Setting(
    dataset="imagenet2012",
    test_split="validation",
    phases=(
        Phase(6, 128, 512, ((0.0, 0.0), (1 / 6, 0.4), (1.0, 0.04))),
        Phase(6, 224, 224, ((0.0, 0.04), (1.0, 0.004))),
        Phase(3, 288, 128, ((0.0, 0.004), (1.0, 0.0004))),
    ),
    published={
        row_name(2.0): (60.90, 43.46, 43.43),
        row_name(4.0): (55.45, 30.28, 30.18),
    },
    published_minutes=(20.07, 53.39, 95.93),
)

# The same in small: image sizes, batches and rates change alike, for a network of two short stages.
MADE_UP = Setting(
    dataset="made_up",
    test_split="test",
    phases=(
        Phase(4, 32, 32, ((0.0, 0.0), (0.25, 0.2), (1.0, 0.05))),
        Phase(2, 48, 16, ((0.0, 0.05), (1.0, 0.01))),
        Phase(1, 64, 16, ((0.0, 0.01), (1.0, 0.001))),
    ),
    radii=(4.0,),
    network={"width": 16, "blocks": (1, 1)},
    eval_size=64,
    eval_batch=32,
    chunk=32,
    steps=20,
    restarts=3,
)

PRESETS: Mapping[str, Setting] = {"made-up": MADE_UP, "imagenet": IMAGENET}
