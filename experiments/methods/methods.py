"""The rows of the study: training methods with their settings."""

from __future__ import annotations

import dataclasses

from experiments.common.defense_menu import REPLAYS, make_methods
from experiments.common.recipes import Recipe
from experiments.common.rows import Method
from experiments.methods.config import Config
from jaxrobust.data import Dataset


def rows_of(config: Config, settings: Recipe, dataset: Dataset) -> list[Method]:
    """The rows of the table; Free visits a batch several times in correspondingly fewer epochs."""
    rows = make_methods(config.methods, settings, dataset)
    fewer = {"epochs": max(1, round(settings.epochs / REPLAYS))}
    return [
        dataclasses.replace(row, changes=fewer) if row.defense.replays > 1 else row for row in rows
    ]
