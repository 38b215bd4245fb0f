"""Figures that the source prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

COLUMNS = "clean / FGSM / PGD"

# Robey et al. 2021, Tables 1 and 2.
PUBLISHED: Mapping[str, Mapping[str, Sequence[float]]] = {
    "mnist": {
        "erm": (99.3, 14.3, 1.46),
        "fgsm": (98.3, 98.1, 13.0),
        "pgd": (98.1, 95.5, 93.1),
        "clp": (98.0, 95.4, 92.2),
        "alp": (98.1, 95.5, 92.5),
        "mart": (98.9, 96.1, 93.5),
        "trades": (98.9, 96.5, 94.0),
        "dale rho=0.5": (99.3, 96.6, 94.0),
        "dale rho=0.8": (99.0, 96.9, 94.3),
        "dale rho=1": (99.1, 97.7, 94.5),
    },
    "cifar10": {
        "erm": (94.0, 0.01, 0.01),
        "fgsm": (72.6, 49.7, 40.7),
        "pgd": (83.8, 53.7, 48.1),
        "clp": (79.8, 53.9, 48.4),
        "alp": (75.9, 55.0, 48.8),
        "mart": (78.9, 55.6, 49.8),
        "trades": (80.7, 55.2, 49.6),
        "dale rho=0.5": (86.0, 54.4, 48.4),
        "dale rho=0.8": (85.0, 55.4, 50.1),
        "dale rho=1": (82.1, 55.2, 51.7),
        "dale nu=0.1": (86.4, 55.3, 49.5),
        "dale nu=0.5": (86.5, 54.3, 46.8),
        "dale nu=1": (84.5, 52.7, 45.8),
    },
}
