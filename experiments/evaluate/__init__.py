"""Attacks and certificates on one trained or released model."""
