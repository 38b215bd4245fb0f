"""The study of fast adversarial training: starts, clocks, collapses, exact verification."""
