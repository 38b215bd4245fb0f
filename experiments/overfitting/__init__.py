"""The study of robust overfitting: what robust accuracy does while training goes on."""
