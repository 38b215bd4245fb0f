"""Figures of Wong's thesis, sections 4.3 and 4.4, in %."""

from __future__ import annotations

from collections.abc import Mapping

Errors = tuple[float | None, ...]
"""Robust error, final and best, then standard error, final and best."""

PUBLISHED: Mapping[tuple[str, str], Mapping[str, Errors]] = {
    ("cifar10", "linf"): {
        # Table 4.12: pre-activation ResNet-18.
        "pgd": (53.9, 46.5),
        # Table 4.13.
        "early_stopping": (46.9, 46.7, 18.2, 18.2),
        "l1 5e-05": (53.0, 48.6, 15.9, 15.4),
        # Printed as 51.4, but the difference of 8.8 beside it and section 4.4.1 say 55.2.
        "l2 0.05": (55.2, 46.4, 15.7, 14.9),
        "cutout 14": (48.8, 46.7, 16.8, 16.4),
        "mixup 1.4": (49.1, 46.3, 23.3, 19.0),
        "semi_supervised": (47.1, 40.2, 23.0, 17.2),
        # Table 4.12 and section 4.3.7: steps of 7/255 from a uniform start.
        "fgsm_rs": (59.8, 53.7),
        # Section 4.3.10: WRN-28 by width.
        "width 10": (51.4, 43.2),
        "width 20": (48.8, 41.8),
    },
    # Table 4.10.
    ("cifar10", "l2"): {"pgd": (31.1, 28.4)},
    ("cifar100", "linf"): {"pgd": (78.6, 71.9)},
    ("cifar100", "l2"): {"pgd": (62.5, 56.8)},
    ("svhn_cropped", "linf"): {"pgd": (45.6, 39.0)},
    ("svhn_cropped", "l2"): {"pgd": (26.4, 25.2)},
}
"""Published figures by data set and norm, then by row."""
