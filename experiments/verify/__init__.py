"""Certified, attacked and exact robustness of one trained or released model."""
