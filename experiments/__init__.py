"""One script per paper: `python -m experiments.<name>`."""
