"""The rows of the study: training methods with their settings."""

from __future__ import annotations

import dataclasses

from jaxrobust import attacks, defenses
from jaxrobust.data import Dataset

from ..common.defense_menu import make_methods, mode, stepped
from ..common.recipes import Recipe, kin
from ..common.rows import Method
from .config import Config
from .recipes import EARLY, LESSONS, SURROGATES, UNTIL


def dynamic_row(config: Config, settings: Recipe) -> Method:
    """Dynamic training with the given c_max and share T' / T of training."""
    options = config.options
    until = UNTIL.get((kin(options.dataset), options.preset), 0.8)
    until = until if config.until is None else config.until
    defense = defenses.dynamic(
        settings.threat,
        largest=config.c_max,
        until=until,
        ramp=settings.ramp,
        **stepped(settings),
    )
    default = config.c_max == 0.5 and config.until is None
    name = "dynamic" if default else f"dynamic c_max={config.c_max:g} until={until:g}"
    return Method(name, defense)


def early_row(name: str, config: Config, settings: Recipe) -> Method:
    """PGD by steps of eps / 8, or FGSM at first and the recipe's PGD then (Figure 3)."""
    small = {**stepped(settings), "step_size": settings.epsilon / 8}
    if name == "pgd_small":
        return Method(name, defenses.pgd(settings.threat, **small, **mode(settings)))
    strong = attacks.pgd(settings.threat, **stepped(settings), keep="last")
    weak = attacks.fgsm(settings.threat)
    return Method(name, defenses.phased(weak, strong, share=config.weak, **mode(settings)))


def surrogate_row(config: Config, settings: Recipe, dataset: Dataset) -> Method:
    """The network that black-box points are made on."""
    options = config.options
    usual = SURROGATES.get((kin(options.dataset), options.preset), settings.model)
    chosen = config.surrogate_model or usual
    (row,) = make_methods((config.surrogate,), settings, dataset)
    # The defended network's options are its own.
    own = {} if chosen == settings.model else {"model": chosen, "model_options": {}}
    return dataclasses.replace(row, name=f"{config.surrogate} {chosen}", changes=own)


def rows_of(config: Config, settings: Recipe, dataset: Dataset) -> list[Method]:
    """The rows of the tables."""
    options = config.options
    most = LESSONS.get((kin(options.dataset), options.preset), settings.steps)
    lessons = dataclasses.replace(settings, steps=most)
    rows = []
    for name in config.methods:
        if name in EARLY:
            rows.append(early_row(name, config, settings))
            continue
        own = lessons if name.startswith("curriculum") else settings
        rows += make_methods((name,), own, dataset)
    return [dynamic_row(config, settings) if r.name == "dynamic" else r for r in rows]
