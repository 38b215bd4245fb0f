"""Adversarial robustness in JAX: compiled attacks and constrained adversarial training."""

__version__ = "0.1.0"
