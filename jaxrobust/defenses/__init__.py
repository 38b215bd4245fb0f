"""Training methods, all with one signature: see `Defense`."""

from jaxrobust.defenses.adversarial import adversarial, fgsm, n_fgsm, pgd
from jaxrobust.defenses.awp import awp
from jaxrobust.defenses.base import (
    EXAMPLES,
    Defense,
    LossOutput,
    TrainContext,
    adversarial_examples,
    forward,
    metrics_of,
    paired,
)
from jaxrobust.defenses.beta import beta, sbeta
from jaxrobust.defenses.cvar import cvar
from jaxrobust.defenses.dale import dale, kl_dale
from jaxrobust.defenses.dual import dual
from jaxrobust.defenses.dynamic import Lesson, curriculum, dynamic
from jaxrobust.defenses.erm import erm
from jaxrobust.defenses.free import free
from jaxrobust.defenses.grad_align import grad_align
from jaxrobust.defenses.mart import mart
from jaxrobust.defenses.mixup import mixup
from jaxrobust.defenses.pairing import alp, clp, noisy_clp
from jaxrobust.defenses.phased import phased
from jaxrobust.defenses.trades import binary_trades, trades, trades_attack
from jaxrobust.defenses.union import augmented, msd, worst

__all__ = [
    "EXAMPLES",
    "Defense",
    "Lesson",
    "LossOutput",
    "TrainContext",
    "adversarial",
    "adversarial_examples",
    "alp",
    "augmented",
    "awp",
    "beta",
    "binary_trades",
    "clp",
    "curriculum",
    "cvar",
    "dale",
    "dual",
    "dynamic",
    "erm",
    "fgsm",
    "forward",
    "free",
    "grad_align",
    "kl_dale",
    "mart",
    "metrics_of",
    "mixup",
    "msd",
    "n_fgsm",
    "noisy_clp",
    "paired",
    "pgd",
    "phased",
    "sbeta",
    "trades",
    "trades_attack",
    "worst",
]
