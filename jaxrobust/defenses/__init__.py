"""Training methods, all with one signature: see `Defense`."""

from jaxrobust.defenses.adversarial import adversarial, fgsm, pgd
from jaxrobust.defenses.base import (
    EXAMPLES,
    Aux,
    Defense,
    forward,
    metrics_of,
    paired,
    perturb,
)
from jaxrobust.defenses.dale import dale, kl_dale
from jaxrobust.defenses.erm import erm
from jaxrobust.defenses.trades import trades, trades_attack

__all__ = [
    "EXAMPLES",
    "Aux",
    "Defense",
    "adversarial",
    "dale",
    "erm",
    "fgsm",
    "forward",
    "kl_dale",
    "metrics_of",
    "paired",
    "perturb",
    "pgd",
    "trades",
    "trades_attack",
]
