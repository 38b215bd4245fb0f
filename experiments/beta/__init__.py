"""BETA's experiments (Robey et al. 2023): Tables 1 and 2, Figure 1."""
