"""The parts of TRADES' experiments."""
