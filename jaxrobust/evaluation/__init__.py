"""Clean and robust accuracy over data sets: compiled, sharded over devices, counted exactly."""

from jaxrobust.evaluation.audit import Flag, attack_flags, audit
from jaxrobust.evaluation.certified import CertifiedReport, certified
from jaxrobust.evaluation.curve import Curve, curve, curve_of_norms
from jaxrobust.evaluation.evaluate import evaluate
from jaxrobust.evaluation.report import AttackReport, Report, Timing, accuracy, standard_error
from jaxrobust.evaluation.sandwich import Sandwich, SandwichError, sandwich
from jaxrobust.evaluation.sanity import Check, Sanity, sanity

__all__ = [
    "AttackReport",
    "CertifiedReport",
    "Check",
    "Curve",
    "Flag",
    "Report",
    "Sandwich",
    "SandwichError",
    "Sanity",
    "Timing",
    "accuracy",
    "attack_flags",
    "audit",
    "certified",
    "curve",
    "curve_of_norms",
    "evaluate",
    "sandwich",
    "sanity",
    "standard_error",
]
