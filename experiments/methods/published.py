"""Figures that the source prints."""

from __future__ import annotations

from collections.abc import Mapping

SOURCES: Mapping[str, str] = {
    "erm": "",
    "fgsm": "Goodfellow et al. 2015",
    "fgsm_rs": "Wong 4.1",
    "n_fgsm": "de Jorge et al. 2022",
    "grad_align": "Andriushchenko & Flammarion 2020",
    "free": "Shafahi et al. 2019",
    "pgd": "Madry et al. 2018",
    "alp": "DALE's code",
    "alp_original": "Kannan et al. 2018",
    "clp": "DALE's code",
    "clp_original": "Kannan et al. 2018",
    "trades": "TRADES",
    "mart": "Wang et al. 2020",
    "dynamic": "FOSC",
    "curriculum": "Cai et al. 2018",
    "curriculum_mixed": "Cai et al. 2018",
    "beta": "BETA",
    "sbeta": "BETA",
    "msd": "Wong 5.3",
    "worst": "Wong 5.3",
    "augmented": "Wong 5.3",
    "cvar": "Rockafellar & Uryasev 2000",
    "awp": "Wu et al. 2020",
    "mixup": "Wong 4.4",
    "dale": "DALE",
    "kl_dale": "DALE",
    "reverse_dale": "DALE",
}
"""The text that a method is taken from."""
