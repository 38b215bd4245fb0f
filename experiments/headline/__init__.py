"""DALE, TRADES and PGD training beside one another, within a budget of time."""
