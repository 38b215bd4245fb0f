"""The study of training for a union of norm balls."""
