"""DALE's experiments (Robey et al. 2021): Tables 1 and 2, Figures 1 and 2."""
