"""Parts of the study of fast adversarial training: starts, rows, clocks, verification, figures."""
