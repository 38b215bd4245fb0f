"""Clean and robust accuracy over data sets: compiled, sharded over devices, counted exactly."""

from jaxrobust.evaluation.curve import Curve, curve
from jaxrobust.evaluation.evaluate import evaluate
from jaxrobust.evaluation.report import AttackReport, Report, Timing, accuracy, standard_error

__all__ = [
    "AttackReport",
    "Curve",
    "Report",
    "Timing",
    "accuracy",
    "curve",
    "evaluate",
    "standard_error",
]
