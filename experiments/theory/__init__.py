"""The papers' theorems on problems whose answers are known."""
