"""TRADES' experiments (Zhang et al. 2019)."""
