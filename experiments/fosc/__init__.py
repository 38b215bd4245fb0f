"""FOSC's experiments (Wang et al. 2019)."""
