"""The study of the Wasserstein attack and of training against it."""
