"""Adversarial robustness in JAX: compiled attacks and constrained adversarial training.

`import jaxrobust` is quick: its parts are imported when they are first used.
"""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxrobust import (
        attacks,
        data,
        defenses,
        duals,
        evaluation,
        export,
        figures,
        lagrangian,
        losses,
        models,
        sinkhorn,
        threats,
        training,
        types,
    )

__version__ = "0.1.0"

__all__ = [
    "attacks",
    "data",
    "defenses",
    "duals",
    "evaluation",
    "export",
    "figures",
    "lagrangian",
    "losses",
    "models",
    "sinkhorn",
    "threats",
    "training",
    "types",
]


def __getattr__(name: str) -> ModuleType:
    if name in __all__:
        return importlib.import_module(f"jaxrobust.{name}")
    raise AttributeError(f"jaxrobust has no part {name!r}; it has: {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
