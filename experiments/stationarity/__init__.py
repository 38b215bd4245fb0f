"""The parts of FOSC's experiments."""
