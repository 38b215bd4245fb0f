"""Figures of Wong's thesis, chapter 3: test errors in %, as text to show beside ours."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

Key = tuple[str, str, str]
"""Network, radius as text (`told`) and method of training."""


def told(radius: float) -> str:
    """A radius as text: in 255ths where it is a whole number of them and has no short form."""
    text, pixels = f"{radius:g}", radius * 255
    return f"{round(pixels)}/255" if len(text) > 5 and np.isclose(pixels, round(pixels)) else text


def _attacked(radius: str, standard: str, robust: str) -> dict[Key, str]:
    """Table 3.1: clean/FGSM/PGD/bound."""
    return {
        ("small", radius, "standard"): f"clean/FGSM/PGD/bound {standard}",
        ("small", radius, "dual"): f"clean/FGSM/PGD/bound {robust}",
    }


def _scaled(radius: str, figures: Mapping[str, str], method: str = "projections") -> dict[Key, str]:
    """Tables 3.5 to 3.7: the single network's errors, and those of the cascade where given."""
    rows = {}
    for network, text in figures.items():
        single, _, cascade = text.partition(" ")
        rows[network, radius, method] = f"bound/clean {single}"
        if cascade:
            rows[network, radius, f"{method} cascade"] = f"bound/clean {cascade}"
    return rows


PUBLISHED: Mapping[str, Mapping[Key, str]] = {
    "mnist": _attacked("0.1", "1.07/50.01/81.68/100", "1.80/3.93/4.11/5.82"),
    "fashion_mnist": _attacked("0.1", "9.36/77.98/81.85/100", "21.73/31.25/31.63/34.53"),
    "har": {
        ("signed500", "0.025", "standard"): "clean/FGSM/PGD/bound 4.95/60.57/63.82/81.56",
        ("signed500", "0.025", "dual"): "clean/FGSM/bound 9.20/22.20/22.80 (3.1: 7.80/21.49/21.90)",
        ("signed500", "0.05", "dual"): "clean/FGSM/bound 15.74/36.62/37.09",
        ("signed500", "0.125", "dual"): "clean/FGSM/bound 47.66/64.24/64.47",
        ("signed500", "0.25", "dual"): "clean/FGSM/bound 47.08/67.32/67.86",
        ("signed500", "0.5", "dual"): "clean/FGSM/bound 81.80/81.80/81.80",
    },
    "svhn_cropped": _attacked("0.01", "16.01/62.21/83.43/100", "20.38/33.28/33.74/40.67"),
    "mnist-scaled": {
        **_scaled("0.1", {"small": "4.48/1.26"}, "dual"),
        **_scaled("0.1", {
            "small": "4.99/1.37 3.13/3.13", "large": "3.67/1.08 3.42/3.18",
            "wide1": "6.51/2.27", "wide2": "5.46/1.55", "wide4": "4.94/1.33",
            "wide8": "4.79/1.32", "wide16": "5.27/1.36",
            "deep1": "5.28/1.78", "deep2": "4.37/1.28", "deep3": "4.20/1.15",
        }),
        **_scaled("0.3", {"small": "43.10/14.87 33.64/33.64", "large": "45.66/12.61 41.62/35.24"}),
    },
    "mnist-l2": {
        **_scaled("1.58", {"small": "56.48/11.86 24.42/19.57"}, "dual"),
        **_scaled("1.58", {"small": "56.32/13.11 25.34/20.93", "large": "55.47/11.88 26.16/24.97"}),
    },
    "cifar10": {
        **_scaled("2/255", {
            "small": "52.75/38.91 39.35/39.35", "large": "46.59/31.28 38.84/36.08",
            "resnet": "46.11/31.72 36.41/35.93",
        }),
        **_scaled("8/255", {
            "small": "79.25/72.24 71.71/71.71", "large": "83.43/80.56 79.24/79.14",
            "resnet": "78.22/71.33 70.95/70.77",
        }),
    },
    "cifar10-l2": _scaled("36/255", {
        "small": "53.73/44.72 50.13/48.64", "large": "49.40/40.24 41.36/41.16",
        "resnet": "48.04/38.80 41.44/41.28",
    }),
}  # fmt: skip
"""Published figures by preset. Table 3.1 has standard and dual rows, HAR's others are those of
table 3.3 with radii halved; tables 3.5 to 3.7 were trained
with 50 random projections, but for the rows called exact."""
