"""`evaluate`'s options by name, whichever part of its configuration holds them."""

import dataclasses
from typing import Any

from experiments.common.subject import Subject
from experiments.evaluate.config import Config

OF_SUBJECT = {field.name for field in dataclasses.fields(Subject)}


def changed(config: Config, **settings: Any) -> Config:
    """The configuration with other settings."""
    own = {name: settings.pop(name) for name in list(settings) if name in OF_SUBJECT}
    subject = dataclasses.replace(config.subject, **own)
    return dataclasses.replace(config, subject=subject, **settings)


def config_of(**settings: Any) -> Config:
    """The configuration with these settings, all others at their defaults."""
    return changed(Config(), **settings)
