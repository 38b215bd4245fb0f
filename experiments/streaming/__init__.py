"""Parts of `experiments.imagenet`."""
