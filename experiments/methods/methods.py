"""The rows of the study: training methods with their settings."""

from __future__ import annotations

import dataclasses

from jaxrobust.data import Dataset

from ..common.defense_menu import REPLAYS, make_methods
from ..common.recipes import Recipe
from ..common.rows import Method
from .config import Config


def rows_of(config: Config, settings: Recipe, dataset: Dataset) -> list[Method]:
    """The rows of the table; Free visits a batch several times in correspondingly fewer epochs."""
    rows = make_methods(config.methods, settings, dataset)
    fewer = {"epochs": max(1, round(settings.epochs / REPLAYS))}
    return [
        dataclasses.replace(row, changes=fewer) if row.defense.replays > 1 else row for row in rows
    ]
