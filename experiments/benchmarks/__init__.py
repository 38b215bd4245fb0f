"""The parts of `python -m experiments.benchmark`, a module per subcommand and what they share."""
