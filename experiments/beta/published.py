"""Figures that the source prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

COLUMNS = "Clean / FGSM / PGD10 / PGD40 / BETA10 / APGD"

# Robey et al. 2023, Table 1.
PUBLISHED: Mapping[str, Mapping[str, Sequence[float]]] = {
    "cifar10": {
        "fgsm best": (81.96, 94.26, 42.64, 42.66, 40.30, 41.56),
        "fgsm last": (75.43, 94.22, 1.49, 1.62, 0.04, 0.00),
        "pgd best": (83.71, 51.98, 46.74, 45.91, 43.64, 44.36),
        "pgd last": (83.21, 47.39, 39.90, 39.45, 40.21, 42.62),
        "trades best": (81.64, 52.40, 47.85, 47.76, 44.31, 43.34),
        "trades last": (81.42, 51.31, 42.31, 42.92, 40.97, 41.33),
        "mart best": (78.80, 53.84, 49.08, 48.41, 44.81, 45.00),
        "mart last": (77.20, 53.73, 41.12, 41.55, 41.22, 42.90),
        "beta5 best": (87.02, 51.22, 44.02, 43.94, 42.62, 41.44),
        "beta5 last": (86.67, 51.10, 43.22, 42.56, 42.61, 41.02),
        "beta10 best": (85.37, 51.42, 45.67, 45.22, 44.54, 44.32),
        "beta10 last": (85.30, 51.11, 45.39, 45.00, 44.36, 44.12),
        "beta20 best": (82.11, 54.01, 49.96, 49.20, 46.91, 45.27),
        "beta20 last": (81.72, 53.99, 48.67, 48.70, 45.90, 45.25),
    }
}
