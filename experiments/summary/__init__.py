"""One table of all studies' results."""
