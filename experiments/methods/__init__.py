"""Every training method, with one recipe."""
