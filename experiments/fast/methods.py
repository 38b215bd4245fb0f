"""The rows of each part of the study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxrobust import attacks, defenses, training
from jaxrobust.data import Dataset
from jaxrobust.defenses import Defense

from ..common.defense_menu import PLAIN, mode, start
from ..common.recipes import Recipe
from ..common.rows import BEST_BY, Method
from .recipes import STARTS, TABLE, TIMES, VERIFIED, Setting, Share
from .starts import hypercube, previous

METHODS: Mapping[str, tuple[str, ...]] = {
    "table": (*TABLE["cifar10"],),
    "start": (*STARTS["mnist"],),
    "verified": (*VERIFIED["mnist"],),
    "collapse": ("zero", "uniform 1.25 eps", "n_fgsm", "zero, grad_align", "pgd"),
    "time": (*TIMES["cifar10"],),
}
"""The rows of each part, most as the thesis' tables have them; of `time`, once for each budget."""


def stop(setting: Setting) -> training.Stop:
    """Ends a run whose robustness on the images held out collapsed."""
    return training.collapsed(BEST_BY, drop=setting.drop)


def fgsm(settings: Recipe, ratio: float, begin: attacks.Start | None = None) -> Defense:
    """FGSM training with a step of `ratio` radii, by default from the recipe's random start."""
    begin = start(settings.single_start) if begin is None else begin
    step = ratio * settings.epsilon
    return defenses.fgsm(settings.threat, start=begin, step_size=step, **mode(settings))


def own(settings: Recipe, share: Share, epochs: int) -> dict[str, Any]:
    """A row's epochs and learning rate."""
    return {"epochs": epochs, "learning_rate": share.rate * settings.learning_rate}


def table_rows(setting: Setting, settings: Recipe, dataset: Dataset) -> list[Method]:
    """Table 4.1: the start and the step of FGSM, and early stopping, beside Free and PGD."""
    zero, double = fgsm(settings, 1.0, attacks.clean), fgsm(settings, 2.0)
    batch = (settings.batch_size, *dataset.shape)
    others = []
    for name in ("free", "pgd"):
        share = setting.share(name)
        changes = own(settings, share, max(1, round(share.epochs * settings.epochs)))
        others.append(Method(name, PLAIN[name](settings, dataset), changes=changes))
    return [
        Method("zero", zero),
        Method("zero stopped", zero, stop=stop(setting)),
        Method("previous", previous(settings.threat, shape=batch, **mode(settings))),
        Method("uniform", fgsm(settings, 1.0)),
        Method("uniform 1.25 eps", fgsm(settings, 1.25)),
        Method("uniform 2 eps", double),
        Method("uniform 2 eps stopped", double, stop=stop(setting)),
        *others,
    ]


def start_rows(settings: Recipe) -> list[Method]:
    """Table 4.3: R+FGSM's start and half step against the uniform start and the full step."""
    return [
        Method("R+FGSM", fgsm(settings, 0.5, hypercube)),
        Method("R+FGSM full step", fgsm(settings, 1.0, hypercube)),
        Method("R+FGSM uniform start", fgsm(settings, 0.5)),
        Method("uniform start full step", fgsm(settings, 1.0)),
    ]


def fragile_rows(settings: Recipe, dataset: Dataset) -> list[Method]:
    """Single steps that collapse, what keeps them from it, and PGD training."""
    zero = fgsm(settings, 1.0, attacks.clean)
    aligned = defenses.grad_align(
        zero, settings.threat, weight=settings.grad_align, attack_mode=settings.attack_mode
    )
    return [
        Method("zero", zero),
        Method("uniform 1.25 eps", fgsm(settings, 1.25)),
        Method("n_fgsm", PLAIN["n_fgsm"](settings, dataset)),
        Method("zero, grad_align", aligned),
        Method("pgd", PLAIN["pgd"](settings, dataset)),
    ]


def verified_rows(settings: Recipe, dataset: Dataset) -> list[Method]:
    """Table 4.4: PGD and FGSM-RS."""
    return [Method(name, PLAIN[name](settings, dataset)) for name in METHODS["verified"]]


def time_rows(
    setting: Setting, settings: Recipe, dataset: Dataset, budgets: Sequence[int]
) -> list[tuple[str, int, Method]]:
    """Figure 4.7: each method with each number of epochs, replays counted, and its row.

    Budgets of less than a pass of Free, which sees each batch several times in one, are left out.
    """
    rows = []
    for name in METHODS["time"]:
        defense = PLAIN[name](settings, dataset)
        for epochs in sorted(budgets):
            if epochs >= defense.replays:
                changes = own(settings, setting.share(name), epochs // defense.replays)
                rows.append((name, epochs, Method(f"{name} {epochs}", defense, changes=changes)))
    return rows


def step_rows(settings: Recipe, ratios: Sequence[float]) -> list[tuple[float, Method]]:
    """Figures 4.4 and 4.5: FGSM from a uniform start by steps of these sizes, in radii."""
    return [(ratio, Method(f"step {ratio:g} eps", fgsm(settings, ratio))) for ratio in ratios]
