"""Parts of the Wasserstein experiment: its settings, models, measurements, tables and figures."""
