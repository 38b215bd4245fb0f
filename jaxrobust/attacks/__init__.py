"""Attacks on one example, `attack(key, f, x, y) -> AttackResult`; `batched` lifts them."""

from jaxrobust.attacks.ascend import Ascent, Point, ascend, fooled, judge, objective
from jaxrobust.attacks.batch import batched, example_keys
from jaxrobust.attacks.first_order import first_order
from jaxrobust.attacks.fosc import fosc, fosc_at, fosc_box
from jaxrobust.attacks.langevin import langevin
from jaxrobust.attacks.pgd import fgsm, momentum, pgd
from jaxrobust.attacks.starts import clean, gaussian, uniform
from jaxrobust.attacks.transforms import add_noise, normalize_by_l1, scale_by_steepest
from jaxrobust.attacks.wrappers import restarts, targeted, worst, worst_of

__all__ = [
    "Ascent",
    "Point",
    "add_noise",
    "ascend",
    "batched",
    "clean",
    "example_keys",
    "fgsm",
    "first_order",
    "fooled",
    "fosc",
    "fosc_at",
    "fosc_box",
    "gaussian",
    "judge",
    "langevin",
    "momentum",
    "normalize_by_l1",
    "objective",
    "pgd",
    "restarts",
    "scale_by_steepest",
    "targeted",
    "uniform",
    "worst",
    "worst_of",
]
